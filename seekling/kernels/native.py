"""The native library, if it is built: loading it, and saying whether it fits a tensor."""


def fits(*tensors):
    """Whether the native kernels can take these tensors."""
    return False


def status() -> str:
    """One line for people: which path runs."""
    return "torch"
