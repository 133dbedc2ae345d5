"""Unpack a bundle into a new folder, once every file is what the bundle's manifest states.

    python scripts/open_bundle.py results/bundle.zip received

It trusts nothing: a zip with names that lead elsewhere, links, files that its manifest lacks, or
more in it than the limit is refused with one line and status 1, and leaves nothing behind.
"""

import argparse
import sys

from posttrain import bundle
from posttrain.errors import BundleError


def main() -> None:
    """Unpack, and print how many files there were."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="the zip, such as results/bundle.zip")
    parser.add_argument("folder", help="where to; it must not be there yet, or be empty")
    parser.add_argument(
        "--largest-megabytes", type=float, default=1000, help="unpacked at most (default 1000)"
    )
    asked = parser.parse_args()
    try:
        names = bundle.unpack(asked.bundle, asked.folder, asked.largest_megabytes)
    except (BundleError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(names)} files in {asked.folder}, each as the manifest states")


if __name__ == "__main__":
    main()
