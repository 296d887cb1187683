"""Why a score is what it is, from what a device has: sentences and one picture."""
