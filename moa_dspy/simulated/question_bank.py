"""The kinds of questions that are bundled: their wordings, how they are solved, and what is got wrong.

Every solver returns the right answer first and then the mistakes, the most popular one first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from moa_dspy.simulated.draws import pick, shuffled
from moa_dspy.simulated.question_template import Sampler, Slots, Template


def _each(**pools: Sequence[object]) -> Sampler:
    """Draw every slot on its own from its pool."""
    return lambda key: {name: pick(pool, key, name) for name, pool in pools.items()}


def _change(slots: Slots) -> Sequence[object]:
    price, cost, paid = int(slots["price"]), int(slots["n"]) * int(slots["price"]), int(slots["note"])
    if cost >= paid:
        raise ValueError("the note does not cover the cost")
    return paid - cost, paid - cost + 10, cost, paid - price


def _distance(slots: Slots) -> Sequence[object]:
    v, h, w, k = (int(slots[name]) for name in "vhwk")
    return v * h + w * k, (v + w) * (h + k) // 2, v * h + w, v * h + w * k - 10


def _eggs(slots: Slots) -> Sequence[object]:
    laid, broken = int(slots["boxes"]) * int(slots["each"]), int(slots["broken"])
    return laid - broken, laid, laid - broken + 10, laid + broken


def _sale(slots: Slots) -> Sequence[object]:
    price, percent = int(slots["price"]), int(slots["percent"])
    off, cents = divmod(price * percent, 100)
    if cents:
        raise ValueError("the price is no whole number of dollars")
    return price - off, price - percent, off, price - off + 10, price - off - 10


def _clues(key: str) -> Mapping[str, object]:
    people = shuffled(PEOPLE, "people", key)[:4]
    more, most, least = pick(COMPARISONS, "comparison", key)
    links = shuffled([(0, 1), (1, 2), (2, 3)], "links", key)
    slots = dict(zip("abcdef", (people[place] for link in links for place in link), strict=True))
    return {**slots, "more": more, "which": pick([most, least, f"second {most}"], "which", key)}


def _ranking(slots: Slots) -> Sequence[object]:
    below = {slots[upper]: slots[lower] for upper, lower in ("ab", "cd", "ef")}
    (top,) = set(below) - set(below.values())
    order = [top, below[top], below[below[top]], below[below[below[top]]]]
    most, least = {more: rest for more, *rest in COMPARISONS}[slots["more"].lower()]
    # The neighbours in the order are the popular mistakes.
    places = {most: (0, 1, 3, 2), f"second {most}": (1, 2, 0, 3), least: (3, 2, 0, 1)}[slots["which"].lower()]
    return [order[place] for place in places]


def _units(key: str) -> Mapping[str, object]:
    small, large = pick(sorted(FACTORS), "units", key)
    n = pick(range(2, 16), "amount", key)
    return {"small": small, "large": large, "n": n, "total": n * FACTORS[small, large]}


def _smaller(slots: Slots) -> Sequence[object]:
    n, factor = int(slots["n"]), FACTORS[slots["small"].lower(), slots["large"].lower()]
    return n * factor, n * factor * 10, n * factor + factor, n * 100


def _larger(slots: Slots) -> Sequence[object]:
    total, factor = int(slots["total"]), FACTORS[slots["small"].lower(), slots["large"].lower()]
    n, rest = divmod(total, factor)
    if rest:
        raise ValueError("the total is no whole number of the larger unit")
    return n, n * 10, n + 1, total * factor


def _fahrenheit(slots: Slots) -> Sequence[object]:
    celsius = int(slots["celsius"])
    if celsius % 5:
        raise ValueError("the temperature is no whole number of degrees Fahrenheit")
    return celsius * 9 // 5 + 32, celsius * 2 + 30, celsius * 9 // 5, celsius + 32


def _span(key: str) -> Mapping[str, object]:
    first = date(2023, 1, 1) + timedelta(pick(range(700), "first", key))
    days = pick(range(20, 200), "days", key)
    return {"first": first, "days": days, "last": first + timedelta(days)}


def _later(slots: Slots) -> Sequence[object]:
    last = date.fromisoformat(slots["first"]) + timedelta(int(slots["days"]))
    return [last + timedelta(error) for error in (0, -1, 1, 2)]


def _between(slots: Slots) -> Sequence[object]:
    days = (date.fromisoformat(slots["last"]) - date.fromisoformat(slots["first"])).days
    return [abs(days) + error for error in (0, 1, -1, 30)]


def _weekday(slots: Slots) -> Sequence[object]:
    today = WEEKDAYS.index(slots["today"].capitalize())
    return [WEEKDAYS[(today + int(slots["days"]) + error) % 7] for error in (0, 1, -1, 2)]


def _repeated(key: str) -> Mapping[str, object]:
    word = pick(WORDS, "word", key)
    return {"word": word, "letter": pick([letter for letter in word if word.count(letter) > 1], "letter", key)}


def _occurrences(slots: Slots) -> Sequence[object]:
    count = slots["word"].lower().count(slots["letter"].lower())
    return (count, count - 1, count + 1, count + 2) if count else (0, 1, 2)


def _backwards(slots: Slots) -> Sequence[object]:
    word = slots["word"].lower()[::-1]
    middle = len(word) // 2
    swapped = word[: middle - 1] + word[middle] + word[middle - 1] + word[middle + 1 :]
    return word, swapped, word[:middle] + word[middle + 1 :], word[1:] + word[0]


def _nth(slots: Slots) -> Sequence[object]:
    word, place = slots["word"].lower(), int(slots["n"]) - 1
    if not 0 <= place < len(word):
        raise ValueError("the word has no such letter")
    return [word[place], *word[place + 1 :][:1], *word[:place][-1:], *word]


def _capital(slots: Slots) -> Sequence[object]:
    return CAPITALS[slots["country"].lower()]


PEOPLE = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivo", "Jana")
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
COMPARISONS = (
    ("taller", "tallest", "shortest"),
    ("older", "oldest", "youngest"),
    ("faster", "fastest", "slowest"),
    ("heavier", "heaviest", "lightest"),
)
FACTORS = {
    ("minutes", "hours"): 60,
    ("seconds", "minutes"): 60,
    ("seconds", "hours"): 3600,
    ("hours", "days"): 24,
    ("hours", "weeks"): 168,
    ("minutes", "days"): 1440,
    ("centimeters", "meters"): 100,
    ("millimeters", "meters"): 1000,
    ("meters", "kilometers"): 1000,
    ("grams", "kilograms"): 1000,
    ("milliliters", "liters"): 1000,
    ("inches", "feet"): 12,
    ("feet", "yards"): 3,
    ("ounces", "pounds"): 16,
}
WORDS = (
    *("strawberry", "banana", "mississippi", "elephant", "calendar", "parallel", "committee", "bookkeeper"),
    *("pineapple", "hippopotamus", "kangaroo", "balloon", "tomorrow", "raspberry", "engineering", "assessment"),
)
# The capital and then the cities that are taken for it.
CAPITALS = {
    "australia": ("Canberra", "Sydney", "Melbourne", "Perth"),
    "belize": ("Belmopan", "Belize City", "San Ignacio", "Orange Walk"),
    "brazil": ("Brasilia", "Rio de Janeiro", "Sao Paulo", "Salvador"),
    "cameroon": ("Yaounde", "Douala", "Garoua", "Bamenda"),
    "canada": ("Ottawa", "Toronto", "Montreal", "Vancouver"),
    "china": ("Beijing", "Shanghai", "Guangzhou", "Shenzhen"),
    "ecuador": ("Quito", "Guayaquil", "Cuenca", "Ambato"),
    "india": ("New Delhi", "Mumbai", "Kolkata", "Chennai"),
    "kazakhstan": ("Astana", "Almaty", "Shymkent", "Karaganda"),
    "morocco": ("Rabat", "Casablanca", "Marrakesh", "Fez"),
    "myanmar": ("Naypyidaw", "Yangon", "Mandalay", "Bago"),
    "new zealand": ("Wellington", "Auckland", "Christchurch", "Dunedin"),
    "nigeria": ("Abuja", "Lagos", "Kano", "Ibadan"),
    "pakistan": ("Islamabad", "Karachi", "Lahore", "Peshawar"),
    "scotland": ("Edinburgh", "Glasgow", "Aberdeen", "Dundee"),
    "switzerland": ("Bern", "Zurich", "Geneva", "Basel"),
    "syria": ("Damascus", "Aleppo", "Homs", "Latakia"),
    "tanzania": ("Dodoma", "Dar es Salaam", "Arusha", "Mwanza"),
    "turkey": ("Ankara", "Istanbul", "Izmir", "Bursa"),
    "vietnam": ("Hanoi", "Ho Chi Minh City", "Da Nang", "Hue"),
}

TEMPLATES = (
    Template(
        "arithmetic",
        "{who} buys {n} pens at {price} dollars each and pays with a {note} dollar note. "
        "How many dollars of change does {who} get?",
        5,
        _each(who=PEOPLE, n=range(3, 12), price=range(2, 9), note=(20, 50, 100)),
        _change,
    ),
    Template(
        "arithmetic",
        "A train goes {v} km per hour for {h} hours and then {w} km per hour for {k} hours. "
        "How many km does it go in total?",
        5,
        _each(v=range(60, 120, 10), h=range(2, 6), w=range(40, 140, 10), k=range(2, 5)),
        _distance,
    ),
    Template(
        "arithmetic",
        "{boxes} boxes hold {each} eggs each. {broken} of the eggs are broken. How many eggs are whole?",
        5,
        _each(boxes=range(4, 15), each=(6, 10, 12, 18), broken=range(3, 20)),
        _eggs,
    ),
    Template(
        "arithmetic",
        "A coat costs {price} dollars. Its price falls by {percent} percent. How many dollars does it cost now?",
        5,
        _each(price=range(60, 300, 20), percent=range(5, 60, 5)),
        _sale,
    ),
    Template(
        "ordering",
        "{a} is {more} than {b}. {c} is {more} than {d}. {e} is {more} than {f}. Who is the {which}?",
        20,
        _clues,
        _ranking,
        slot=r"(?:second )?\w{1,40}",
    ),
    Template("units", "How many {small} are there in {n} {large}?", 8, _units, _smaller),
    Template("units", "How many {large} do {total} {small} make?", 6, _units, _larger),
    Template(
        "units",
        "What is {celsius} degrees Celsius in degrees Fahrenheit?",
        6,
        _each(celsius=range(15, 100, 5)),
        _fahrenheit,
    ),
    Template("dates", "Which date is {days} days after {first}?", 7, _span, _later),
    Template("dates", "How many days are there from {first} to {last}?", 6, _span, _between),
    Template(
        "dates",
        "Today is {today}. Which day of the week is it in {days} days?",
        7,
        _each(today=WEEKDAYS, days=range(9, 120)),
        _weekday,
    ),
    Template("strings", "How often does the letter {letter} occur in the word {word}?", 7, _repeated, _occurrences),
    Template("strings", "Which word do you get when you write {word} backwards?", 7, _each(word=WORDS), _backwards),
    Template("strings", "What is letter number {n} of the word {word}?", 6, _each(n=range(3, 8), word=WORDS), _nth),
    Template(
        "geography",
        "What is the capital of {country}?",
        20,
        _each(country=[country.title() for country in CAPITALS]),
        _capital,
        slot=r"[\w ]{1,40}",
    ),
)
