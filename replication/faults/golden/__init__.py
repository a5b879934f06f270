"""What the original code counts for scenarios of panoptic quality and mIoU.

`parity_tests/golden/README.md` says where the numbers come from.
"""
