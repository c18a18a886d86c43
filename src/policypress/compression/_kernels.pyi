def quantize(
    x: int, out: int, rows: int, columns: int, inverse: int, inverses: int, zero: int, low: float, high: float, /
) -> None: ...
def requantize(
    acc: int,
    values: int,
    outer: int,
    channels: int,
    inner: int,
    ratio: int,
    wide: bool,
    ratios: int,
    low: float,
    high: float,
    scale: float,
    /,
) -> None: ...
def weight_codes(
    weight: int, out: int, rows: int, columns: int, scale: int, inverse: int, inverses: int, limit: float, /
) -> int: ...
def look_up(
    x: int, values: int, slopes: int, size: int, inverse: float, low: float, high: float, largest: float, table: int, /
) -> None: ...
def step_gradient(
    of_weight: int,
    weight: int,
    codes: int,
    rows: int,
    columns: int,
    scale: int,
    step: int,
    steps: int,
    limit: float,
    sums: int,
    /,
) -> None: ...
def rate_gradient(
    weight: int, grad: int, rows: int, columns: int, scale: int, step: int, steps: int, price: float, sums: int, /
) -> None: ...
def unroll(
    kind: int,
    steps: int,
    rows: int,
    units: int,
    starts: int,
    x: int,
    state: int,
    weight: int,
    bias: int,
    before: int,
    after: int,
    smooth: int,
    kept: int,
    inside: int,
    codes: tuple[float, ...] | None,
    /,
) -> None: ...
def unroll_back(
    kind: int,
    steps: int,
    rows: int,
    units: int,
    starts: int,
    grad: int,
    weight: int,
    before: int,
    kept: int,
    smooth: int,
    inside: int,
    limit_of_h: float,
    limit_of_c: float,
    of_x: int,
    of_y: int,
    of_state: int,
    /,
) -> None: ...
