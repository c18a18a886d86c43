def quantize(
    x: int, out: int, rows: int, columns: int, inverse: int, inverses: int, low: float, high: float, /
) -> None: ...
def requantize(
    acc: int,
    values: int,
    outer: int,
    channels: int,
    inner: int,
    ratio: int,
    ratios: int,
    low: float,
    high: float,
    scale: float,
    /,
) -> None: ...
def weight_codes(
    weight: int, out: int, rows: int, columns: int, scale: int, inverse: int, inverses: int, limit: float, /
) -> int: ...
