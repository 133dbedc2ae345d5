"""What a unit holds, in exact fractions: written down here, not asked of the library under test.

Source: the international yard and pound agreement of 1959 (yard 0.9144 m, pound 0.45359237 kg), the
US gallon of 231 cubic inches (NIST Handbook 44, appendix C), SI prefixes for bytes, and a year of
365.242199 days.
"""

from fractions import Fraction

INCH = Fraction("0.0254")  # metres
FOOT, YARD, MILE = 12 * INCH, 36 * INCH, 63360 * INCH
LITER = Fraction(1, 1000)  # cubic metres
GALLON = 231 * INCH**3
POUND = Fraction("0.45359237")  # kilograms
DAY = 24 * 3600  # seconds
YEAR = Fraction("365.242199") * DAY

# unit -> (domain, how many seconds, kilograms, metres, m/s, bits or cubic metres it holds)
DEFINITIONS = {
    "second": ("time", Fraction(1)),
    "minute": ("time", Fraction(60)),
    "hour": ("time", Fraction(3600)),
    "day": ("time", Fraction(DAY)),
    "week": ("time", Fraction(7 * DAY)),
    "month": ("time", YEAR / 12),
    "year": ("time", YEAR),
    "decade": ("time", 10 * YEAR),
    "century": ("time", 100 * YEAR),
    "gram": ("mass", Fraction(1, 1000)),
    "kilogram": ("mass", Fraction(1)),
    "tonne": ("mass", Fraction(1000)),
    "pound": ("mass", POUND),
    "ounce": ("mass", POUND / 16),
    "millimeter": ("length", Fraction(1, 1000)),
    "centimeter": ("length", Fraction(1, 100)),
    "meter": ("length", Fraction(1)),
    "kilometer": ("length", Fraction(1000)),
    "inch": ("length", INCH),
    "foot": ("length", FOOT),
    "yard": ("length", YARD),
    "mile": ("length", MILE),
    "meter per second": ("speed", Fraction(1)),
    "kilometer per hour": ("speed", Fraction(1000, 3600)),
    "mile per hour": ("speed", MILE / 3600),
    "foot per second": ("speed", FOOT),
    "inch per second": ("speed", INCH),
    "bit": ("data", Fraction(1)),
    "byte": ("data", Fraction(8)),
    "kilobyte": ("data", Fraction(8 * 1000)),
    "megabyte": ("data", Fraction(8 * 1000**2)),
    "gigabyte": ("data", Fraction(8 * 1000**3)),
    "cubic millimeter": ("volume", Fraction(1, 1000**3)),
    "cubic centimeter": ("volume", Fraction(1, 100**3)),
    "milliliter": ("volume", LITER / 1000),
    "liter": ("volume", LITER),
    "cubic meter": ("volume", Fraction(1)),
    "fluid ounce": ("volume", GALLON / 128),
    "pint": ("volume", GALLON / 8),
    "quart": ("volume", GALLON / 4),
    "gallon": ("volume", GALLON),
}


def exact_ratio(one: str, other: str) -> Fraction:
    """Return how many `other` one `one` holds."""
    (domain, a), (same, b) = DEFINITIONS[one], DEFINITIONS[other]
    assert domain == same
    return a / b
