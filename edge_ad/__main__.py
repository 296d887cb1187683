"""`python -m edge_ad` is `edgead`."""

from edge_ad.cli import main

if __name__ == "__main__":
    main()
