"""Line: the loop from a trigger to a verdict, and what stands around it."""
