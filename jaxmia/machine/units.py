"""Formats quantities for display."""


def size(count: int) -> str:
    """Formats a number of bytes in GiB, MiB or KiB."""
    if count >= 2**30:
        return f"{count / 2**30:.1f} GiB"
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"


def duration(seconds: float) -> str:
    """Formats a time in seconds or, below one second, in milliseconds."""
    return f"{seconds:.2f} s" if seconds >= 0.9995 else f"{1000 * seconds:.3g} ms"
