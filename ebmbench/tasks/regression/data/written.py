"""Numbers as people write them in tables: `12 %`, `€ 1,250.00`, `1.250,5`, `1'250`, `0,5`, and `-` for none."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

NONE = frozenset(("-", "--", "–", "—", "?", ".", "…", ""))
"""What stands for a number that is not there, beside what pandas takes for that (empty, NA, n/a, null, nan)."""

_AMOUNT = re.compile(
    r"(?P<sign>[-+−]?)\s*[€$£¥]?\s*(?P<minus>-?)(?P<number>\d[\d.,'’\s]*|[.,]\d+)\s*(?:%|€|\$|£|¥|EUR|USD|GBP|CHF)?"
)
_PLAIN = re.compile(r"\d+(\.\d*)?|\.\d+")
_SPACED = re.compile(r"\d{1,3}(?:[\s'’]\d{3})+(?:[.,]\d+)?")
_COMMAS = re.compile(r"\d{1,3}(?:(?:,\d{3})+\.\d+|(?:,\d{3}){2,})")
_POINTS = re.compile(r"\d{1,3}(?:(?:\.\d{3})+,\d+|(?:\.\d{3}){2,})")
_ONE_COMMA = re.compile(r"\d*,\d+")
_THOUSANDS = re.compile(r"[1-9]\d{0,2},\d{3}")
_DAY_FIRST = re.compile(r"\s*\d{1,2}\.\d{1,2}\.\d{4}\b")
_SLASHED = re.compile(r"\s*(\d{1,2})/(\d{1,2})/(\d{4}|\d\d)(?:\s+\d{1,2}:.*)?\s*")
_TIMES = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
SAMPLE = 1000
"""Cells of text that are looked at first: where none is an amount, the column holds words."""


def numeric(values: pd.Series) -> np.ndarray:
    """Returns a column as float64, nan where a cell holds no number.

    One comma between digits is a decimal comma if it cannot separate thousands anywhere in the column. It separates
    thousands if it can everywhere and no other number of the column has decimals. Else these cells hold no number.
    """
    found = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    if pd.api.types.is_numeric_dtype(values.dtype):
        return found
    found = found.copy()  # pandas may give what cannot be written to
    places = np.flatnonzero(np.isnan(found) & values.notna().to_numpy())
    texts = values.iloc[places].astype("string")
    if not any(_AMOUNT.fullmatch(text.strip()) for text in texts.iloc[:SAMPLE]):
        return found
    commas: list[tuple[int, float, str]] = []
    for place, text in zip(places, texts, strict=True):
        match = _AMOUNT.fullmatch(text.strip())
        if match is None:
            continue
        number = match["number"].strip()
        if _SPACED.fullmatch(number):
            number = re.sub(r"[\s'’]", "", number)
        sign = -1.0 if match["sign"] in ("-", "−") or match["minus"] else 1.0
        if _PLAIN.fullmatch(number):
            found[place] = sign * float(number)
        elif _COMMAS.fullmatch(number):
            found[place] = sign * float(number.replace(",", ""))
        elif _POINTS.fullmatch(number):
            found[place] = sign * float(number.replace(".", "").replace(",", "."))
        elif _ONE_COMMA.fullmatch(number):
            commas.append((int(place), sign, number))
    if commas:
        could_be_thousands = all(_THOUSANDS.fullmatch(number) for _, _, number in commas)
        decimals = bool((found[np.isfinite(found)] % 1 != 0).any())
        if not (could_be_thousands and decimals):
            point = "" if could_be_thousands else "."
            for row, sign, number in commas:
                found[row] = sign * float(number.replace(",", point))
    return found


def is_none(values: pd.Series) -> np.ndarray:
    """Returns where a cell says that there is no number."""
    missing = values.isna().to_numpy()
    if pd.api.types.is_numeric_dtype(values.dtype) or pd.api.types.is_datetime64_any_dtype(values.dtype):
        return missing
    return missing | values.astype("string").str.strip().isin(NONE).to_numpy(bool, na_value=True)


def first_written(values: pd.Series, found: np.ndarray) -> int | None:
    """Returns the first row whose number was not written as a program writes one, None if there is none."""
    if pd.api.types.is_numeric_dtype(values.dtype):
        return None
    plain = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    places = np.flatnonzero(np.isnan(plain) & ~np.isnan(found))
    return int(places[0]) if len(places) else None


def days(values: pd.Series, slashed: str | None = None) -> np.ndarray:
    """Returns dates (ISO 8601, `31.12.2024`, or a column of dates) as days since 1970, nan where there is none.

    A time of day is the fraction of its day.

    Args:
        slashed: the form of dates with slashes, as `slashed_form` returns it; without it they are none.
    """
    found = pd.to_datetime(values, errors="coerce", format="ISO8601", utc=True)
    if not pd.api.types.is_datetime64_any_dtype(values.dtype):
        texts = values.astype("string").str.split().str.join(" ")
        for pattern, form in ((_DAY_FIRST, "%d.%m.%Y"), (_SLASHED, slashed)):
            there = texts.str.match(pattern).fillna(False) & found.isna()
            for time in _TIMES if form and there.any() else ():
                found = found.fillna(pd.to_datetime(texts[there], errors="coerce", format=f"{form}{time}", utc=True))
    return ((found - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(days=1)).to_numpy(np.float64)


def slashed_form(texts: pd.Series) -> str | None:
    """Returns how dates such as `12/18/2022` are written, `%m/%d/%Y` here; None where no cell tells or they differ.

    A number above 12 is no month.
    """
    parts = texts.str.extract(_SLASHED).dropna()
    first, second = (bool((parts[place].astype(int) > 12).any()) for place in (0, 1))
    if first == second:
        return None
    year = "%Y" if (parts[2].str.len() == 4).any() else "%y"
    return f"%d/%m/{year}" if first else f"%m/%d/{year}"


def unclear_date(values: pd.Series) -> str | None:
    """Returns one of a column's dates if most are such as `1/2/2024`, which may begin with the day or the month."""
    texts = values.dropna().astype("string")
    slashed = texts[texts.str.fullmatch(_SLASHED)]
    return str(slashed.iloc[0]) if len(slashed) and len(slashed) >= 0.5 * len(texts) else None


def looks_dated(texts: pd.Series) -> pd.Series:
    """Returns which texts begin as a date does."""
    return texts.str.match(r"\s*\d{4}[-/]\d\d") | texts.str.match(_DAY_FIRST) | texts.str.fullmatch(_SLASHED)
