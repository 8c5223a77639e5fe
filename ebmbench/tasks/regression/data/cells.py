"""Cells of tables as people write them: amounts (`€ 1,250.00`, `1248 CC`, `12 %`), dates, and missing values."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ebmbench.core.errors import UserError

NONE = frozenset(("-", "--", "–", "—", "?", ".", "…", ""))
"""What stands for a missing value, beside what pandas takes for one (an empty cell, NA, n/a, null, nan)."""

_CURRENCY = r"[€$£¥₹₩₽₺₪฿]|Rs\.?|EUR|USD|GBP|CHF|INR|JPY|CNY|CAD|AUD"
_AMOUNT = re.compile(
    rf"(?P<sign>[-+−]?)\s*(?P<currency>{_CURRENCY})?\s*(?P<minus>-?)(?P<number>\d[\d.,'’\s]*|[.,]\d+)"
    r"\s*(?P<unit>[^\W\d_]\S{0,14}(?:\s\S{1,10})?|[%°‰€$£¥₹+]\S{0,8})?"
)
_PLAIN = re.compile(r"\d+(\.\d*)?|\.\d+")
_SPACED = re.compile(r"\d{1,3}(?:[\s'’]\d{3})+(?:[.,]\d+)?")
_COMMAS = re.compile(r"\d{1,3}(?:(?:,\d{3})+\.\d+|(?:,\d{3}){2,})")
_POINTS = re.compile(r"\d{1,3}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,})")
_ONE_COMMA = re.compile(r"\d*,\d+")
_THOUSANDS = re.compile(r"[1-9]\d{0,2},\d{3}")
MULTIPLES = {"k": 1e3, "m": 1e6, "mn": 1e6, "mio": 1e6, "b": 1e9, "bn": 1e9}
"""What stands for thousands, millions and billions, where a column has two of them or a currency."""
SAMPLE = 1000
"""Cells of text that are looked at first: where none is an amount, the column holds categories."""


@dataclass(frozen=True)
class Amounts:
    """A column read as numbers.

    Attributes:
        numbers: float64, nan where a cell holds no number in this unit.
        unit: of the column, the commonest one; `multiples` where K, M and B stand for powers of ten; "" for none.
        written: the first row whose number is not written as a program writes one; None if there is none.
    """

    numbers: np.ndarray
    unit: str = ""
    written: int | None = None


def amounts(values: pd.Series, unit: str | None = None) -> Amounts:
    """Returns a column as numbers of one unit; a number without a unit has the column's.

    One comma between digits is a decimal comma if it cannot separate thousands anywhere in the column. It separates
    thousands if it can everywhere and no other number of the column has decimals. Else these cells hold no number.

    Args:
        unit: of the column; None: the commonest one of its cells.
    """
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    if pd.api.types.is_numeric_dtype(values.dtype):
        return Amounts(numbers, unit or "")
    numbers = numbers.copy()  # pandas may give what cannot be written to
    places = np.flatnonzero(np.isnan(numbers) & values.notna().to_numpy())
    texts = values.iloc[places].astype("string").str.strip()
    if not any(_AMOUNT.fullmatch(text) for text in texts.iloc[:SAMPLE]):
        return Amounts(numbers, unit or "")
    cells = [(int(place), cell) for place, text in zip(places, texts, strict=True) if (cell := _AMOUNT.fullmatch(text))]
    units = [_unit(cell["unit"]) for _, cell in cells]
    if unit is None:
        unit = _commonest(units, [bool(cell["currency"]) for _, cell in cells])
        pairs = set(zip((cell["number"] for _, cell in cells), units, strict=True))
        if unit != "multiples" and 1 < len(set(units)) == len(pairs) < len(cells):
            return Amounts(numbers)  # `1. yes` and `2. no` are labels
    scales = MULTIPLES if unit == "multiples" else {unit: 1.0}
    commas: list[tuple[int, float, str]] = []
    for (place, cell), own in zip(cells, units, strict=True):
        if own and own not in scales:
            continue
        number = cell["number"].strip()
        if _SPACED.fullmatch(number):
            number = re.sub(r"[\s'’]", "", number)
        scale = scales.get(own, 1.0) * (-1.0 if cell["sign"] in ("-", "−") or cell["minus"] else 1.0)
        if _PLAIN.fullmatch(number):
            numbers[place] = scale * float(number)
        elif _COMMAS.fullmatch(number):
            numbers[place] = scale * float(number.replace(",", ""))
        elif _POINTS.fullmatch(number):
            numbers[place] = scale * float(number.replace(".", "").replace(",", "."))
        elif _ONE_COMMA.fullmatch(number):
            commas.append((place, scale, number))
    if commas:
        could_be_thousands = all(_THOUSANDS.fullmatch(number) for _, _, number in commas)
        decimals = bool((numbers[np.isfinite(numbers)] % 1 != 0).any())
        if not (could_be_thousands and decimals):
            point = "" if could_be_thousands else "."
            for place, scale, number in commas:
                numbers[place] = scale * float(number.replace(",", point))
    read = [place for place, _ in cells if np.isfinite(numbers[place])]
    return Amounts(numbers, unit, read[0] if read else None)


def _unit(text: str | None) -> str:
    """Returns a unit such that `Years`, `year` and `year.` are one."""
    unit = (text or "").lower().rstrip(".")
    return unit[:-1] if len(unit) > 3 and unit.endswith("s") else unit


def _commonest(units: list[str], currency: list[bool]) -> str:
    """Returns the unit of a column from those of its cells."""
    counts = Counter(unit for unit in units if unit)
    if counts and set(counts) <= set(MULTIPLES) and (len(counts) > 1 or all(currency)):
        return "multiples"
    return counts.most_common(1)[0][0] if counts else ""


def is_none(values: pd.Series) -> np.ndarray:
    """Returns where a cell stands for a missing value."""
    missing = values.isna().to_numpy()
    if not pd.api.types.is_object_dtype(values.dtype) and not pd.api.types.is_string_dtype(values.dtype):
        return missing
    return missing | values.astype("string").str.strip().isin(NONE).to_numpy(bool, na_value=True)


def without_codes(frame: pd.DataFrame, codes: tuple[float | str, ...]) -> pd.DataFrame:
    """Returns a table in which cells that hold one of these codes, as a number or as text, are empty."""
    if not codes:
        return frame
    texts = {text for code in codes for text in (str(code), f"{code:g}" if not isinstance(code, str) else code)}
    numbers = [code for code in codes if not isinstance(code, str)]

    def coded(column: pd.Series) -> pd.Series:
        if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
            return column.isin(numbers)
        return column.astype("string").str.strip().isin(texts).fillna(False)

    return frame.mask(frame.apply(coded).astype(bool))


ISO = "ISO8601"
_MONTH_NAMED = ("%B %Y", "%b %Y", "%b %y", "%d %B %Y", "%d %b %Y", "%d %b %y", "%B %d %Y", "%b %d %Y", "%a %d %b %Y")
_NUMBERED = ("%m %Y", "%Y %m", "%Y %m %d", "%d %m %Y", "%m %d %Y", "%d %m %y", "%m %d %y")
_SWAPPED = str.maketrans("dm", "md")
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
_MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_DATED = re.compile(
    rf"\d{{4}}[-/]\d\d?\b.*|\d\d?[-/]\d\d?[-/](?:\d{{4}}|\d\d)\b.*|\d\d?\.\d\d?\.\d{{4}}\b.*|\d\d?[-/]\d{{4}}"
    rf"|(?:\w+[,.]?\s+)?(?:\d\d?[\s.-]+)?{_MONTH}[a-z]*[\s.,/-]*(?:\d\d?,?\s+)?(?:\d{{4}}|\d\d)\b.*"
    r"|\d{4}\s?-?Q[1-4]|Q[1-4]\s?-?\d{4}",
    re.IGNORECASE,
)
"""Texts that may be dates; `1.5` and `12.2024` are numbers."""


_QUARTER = re.compile(r"(\d{4}) ?[Qq]([1-4])|[Qq]([1-4]) ?(\d{4})")


def date_form(column: pd.Series) -> tuple[str | None, str | None]:
    """Returns how the dates of a column are written, None if they are none; and a cell that could be two dates.

    A column holds dates if at least half of the values that are there are dates. Where a form with the day first reads
    the same cells as one with the month first, or each reads cells that the other does not, nothing tells.
    """
    if pd.api.types.is_datetime64_any_dtype(column.dtype) or isinstance(column.dtype, pd.PeriodDtype):
        return ISO, None
    if not pd.api.types.is_object_dtype(column.dtype) and not pd.api.types.is_string_dtype(column.dtype):
        return None, None
    texts = column[~is_none(column)].astype("string").str.strip()
    dated = texts[texts.str.fullmatch(_DATED).fillna(False)]
    if not len(dated) or len(dated) < 0.5 * len(texts):
        return None, None
    unique = pd.Series(dated.unique(), dtype="string")
    read = {form: np.isfinite(days(unique, form)) for form in (ISO, *_MONTH_NAMED, *_NUMBERED)}
    form = max(read, key=lambda form: read[form].sum())
    if read[form].sum() < 0.5 * len(unique):
        return None, None
    other = read.get(form.translate(_SWAPPED)) if form in _NUMBERED else None
    pointed = bool(unique.str.fullmatch(r"\d\d?\.\d\d?\.\d{4}.*").all())  # the day comes first
    if other is not None and not pointed and ((other & ~read[form]).any() or (other == read[form]).all()):
        return None, str(unique.iloc[0])
    return form, None


def days(values: pd.Series, form: str = ISO) -> np.ndarray:
    """Returns dates as days since 1970, nan where there is none. A time of day is the fraction of its day.

    Args:
        form: how they are written, as `date_form` returns it; ISO 8601 is read in any case.
    """
    if isinstance(values.dtype, pd.PeriodDtype):
        values = values.dt.to_timestamp()
    dates = pd.to_datetime(values, errors="coerce", format=ISO, utc=True)
    if not pd.api.types.is_datetime64_any_dtype(values.dtype) and form != ISO:
        texts = values.astype("string").str.strip()
        texts = texts.str.replace(r"[-/.,\s]+", " ", regex=True).str.replace(r"(?i)\bsept\b", "Sep", regex=True)
        texts = texts.str.replace(
            _QUARTER, lambda found: f"{found[1] or found[4]} {3 * int(found[2] or found[3]) - 2}", regex=True
        )
        for time in _TIMES if dates.isna().any() else ():
            rest = dates.isna() & texts.notna()
            dates = dates.fillna(pd.to_datetime(texts[rest], errors="coerce", format=f"{form}{time}", utc=True))
    return ((dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)).to_numpy(np.float64)


def refuse_nested(frame: pd.DataFrame, source: str) -> None:
    """Raises UserError if a column holds what is neither a number nor text nor a date."""
    for name, column in frame.items():
        is_complex = pd.api.types.is_complex_dtype(column.dtype)
        first = column.dropna().iloc[:1]
        if is_complex or any(isinstance(value, list | tuple | set | dict | np.ndarray | bytes) for value in first):
            kind = "complex numbers" if is_complex else "lists or bytes"
            raise UserError(f"the column {str(name)!r} of {source} holds {kind}; give a table of numbers and text")
