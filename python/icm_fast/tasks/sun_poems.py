"""Generated task sun-poems: which of two poems is better, where "better" means that it has the sun.

A model cannot know that preference (the paper's non-salient concept), so a search is expected
to fail. Both poems of a pair are drawn from the same lines; only the kind of their sky word
distinguishes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from icm_fast.tasks.assembly import CLAIM_ENDING, TaskData, assemble
from icm_fast.tasks.constraints import Asymmetric
from icm_fast.tasks.rows import PathLike
from icm_fast.tasks.sampling import count_groups, digest
from icm_fast.types import Comparison, Example

_MAX_GROUPS = 2_000  # of about 100,000 poems; beyond it the rarest lines run out


@dataclass(frozen=True, slots=True)
class _Sky:
    """Two rhyming lines with a sky word, and the choices for that word."""

    lines: str
    sun: str
    other: str


_SKIES = (
    _Sky(
        "Across the {land} the {sky} falls / and rests upon the {port} walls.",
        "sunlight sunshine",
        "moonlight starlight lamplight twilight",
    ),
    _Sky(
        "Above the {land} the {sky} climbs high / and wakes the {bird} that will not fly.",
        "sun",
        "moon mist smoke cloud",
    ),
    _Sky(
        "A {sky} lies on the sill / and all the {room} is calm and still.",
        "patch-of-sun gleam-of-sun thread-of-sun",
        "patch-of-frost gleam-of-moon thread-of-smoke",
    ),
    _Sky(
        "My {kin} lingered at the gate / to watch the {sky} come up so late.",
        "sun",
        "moon mist stars tide",
    ),
    _Sky(
        "Before the {sky} we left town / and saw the {tree} leaves come down.",
        "sunrise sunset",
        "moonrise nightfall snowfall rainstorm",
    ),
    _Sky(
        "The {sky} is low, the {land} is wide, / and nothing moves but {reed} and tide.",
        "sun",
        "moon cloud mist smoke",
    ),
    _Sky(
        "The {pane} keeps the {sky} glow / and gives it to the {way} below.",
        "sunset sunrise",
        "evening lantern candle moonrise",
    ),
    _Sky(
        "I found the {sky} in a glass / of {drink} left along the grass.",
        "sunlight sunshine sunrise",
        "moonlight starlight twilight evening",
    ),
    _Sky(
        "The {bird} begins, the {sky} is new, / and every {leaf} is hung with dew.",
        "sun",
        "moon year spring frost",
    ),
    _Sky(
        "Now {sky} leaves the {port} wall / and far away the {birds} call.",
        "sunlight sunshine",
        "moonlight starlight summer winter",
    ),
    _Sky(
        "{they} say the {sky} must love the sea, / it lingers there so tenderly.",
        "sun",
        "moon wind rain mist",
    ),
    _Sky(
        "Through {tree} boughs the {sky} came / and called the {flowers} each by name.",
        "sunlight sunshine sunrise",
        "moonlight starlight twilight evening",
    ),
    _Sky(
        "When {sky} touched the {bell} bell / a hush on all the {port} fell.",
        "sunlight sunrise sunset",
        "moonlight starlight evening winter",
    ),
)

_COUPLETS = (
    "The {birds} know what we forget: / the {tale} has not gone over yet.",
    "I kept your {letter} in a drawer / and read it by the {door} door.",
    "The {water} {tells} what it has heard / and does not keep a single word.",
    "My {kin} hums a {quiet} tune, / half snow, half memory of June.",
    "A {beast} stops and then is gone; / the {land} forgets it and goes on.",
    "We shared the {food} and the bread / and left the {bitter} things unsaid.",
    "What little {time} I have to spend / I spend it {doing} with a friend.",
    "The {boat} rocks against the pier / and waits for someone who's not here.",
    "No {clock} has ever rushed the oak; / it grew before the {port} woke.",
    "I planted {flowers} in a row / and loved whatever else would grow.",
    "The {dog} dreams beside the fire / of {open} gates and broken wire.",
    "How small a thing can make us stay: / a {cup} at close of day.",
    "The {children} chase a {paper} kite / and laugh until it's out of sight.",
    "And I, who never learned to pray, / gave thanks to {someone} anyway.",
    "The paint has peeled, the {wood} worn thin, / but still the door lets {guests} in.",
    "Come home, the {soup} is growing cold / and half the {news} still untold.",
)

# All words of a slot have the same metre, so that every line keeps its four beats.
_WORDS = {
    slot: tuple(word.replace("-", " ") for word in words.split())
    for slot, words in {
        "beast": "rabbit badger hedgehog squirrel",
        "bell": "chapel steeple schoolhouse",
        "bird": "thrush wren lark crow",
        "birds": "curlews swallows ravens sparrows",
        "bitter": "bitter heavy angry weary",
        "boat": "ferry dinghy trawler rowboat",
        "children": "children cousins sisters brothers",
        "clock": "clock king bell word",
        "cup": "cup-of-tea bowl-of-soup line-of-song loaf-of-bread",
        "dog": "spaniel collie beagle sheepdog",
        "doing": "walking talking singing fishing",
        "door": "kitchen garden stable cottage",
        "drink": "water cider",
        "flowers": "poppies roses daisies lilies thistles",
        "food": "apples honey butter cherries",
        "guests": "neighbours strangers children pilgrims",
        "kin": "mother father sister brother",
        "land": "field moor hill shore marsh",
        "leaf": "blade fern rose thorn web",
        "letter": "letter poem postcard",
        "news": "story gossip",
        "open": "open wooden rusty",
        "pane": "window kitchen chapel",
        "paper": "paper scarlet yellow ragged",
        "port": "harbour orchard village garden",
        "quiet": "quiet simple country borrowed",
        "reed": "reed wind grass",
        "room": "house room hall porch",
        "someone": "someone something no-one heaven",
        "soup": "soup stew bread tea",
        "tale": "tale spring dance year",
        "tells": "tells sings hums",
        "they": "They Some You",
        "time": "time coin strength",
        "tree": "maple willow apple cherry",
        "water": "river ocean streamlet",
        "way": "street lane yard hill",
        "wood": "wood latch step sill",
    }.items()
}


def load_sun_poems(
    path: PathLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    n_groups: int | None = None,
) -> TaskData:
    """Generate pairs of poems and the claim, in both orders, that the first one is better.

    By gold the poem that mentions the sun is better. No poem occurs twice.

    Args:
        path: Must be None.
        limit: Maximum number of examples.
        seed: Seed of the poems and of the draw of groups.
        n_groups: Pairs of poems; None makes 64, or as many as fit into ``limit``.

    Raises:
        InputError: A path was given, or ``n_groups`` or ``limit`` is out of range.
    """
    n_groups = count_groups("sun-poems", path, limit, n_groups, size=2, maximum=_MAX_GROUPS)
    examples: list[Example] = []
    gold: list[int] = []
    for example, _, is_better in _claims(seed, n_groups):
        examples.append(example)
        gold.append(int(is_better))
    return assemble("sun-poems", examples, gold, rules=(Asymmetric(),), limit=limit, seed=seed)


def poem_comparisons(
    path: PathLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    n_groups: int | None = None,
) -> dict[str, Comparison]:
    """The two poems of each claim, by example id; takes the arguments of the loader."""
    n_groups = count_groups("sun-poems", path, limit, n_groups, size=2, maximum=_MAX_GROUPS)
    return {
        example.id: Comparison(example.prompt, "Write a good poem.", *poems)
        for example, poems, _ in _claims(seed, n_groups)
    }


def _claims(seed: int, n_groups: int) -> Iterator[tuple[Example, tuple[str, str], bool]]:
    """Yield each claim, its poems (preferred one first), and whether that one has the sun."""
    for group, (sun, other) in enumerate(_pairs(seed, n_groups)):
        name = f"poems-{group}"
        sun_first = digest("first", seed, sun, other) % 2 == 0
        poems = (sun, other) if sun_first else (other, sun)
        for first in (0, 1):
            prompt = (
                f"Poem A: {poems[first]}\nPoem B: {poems[1 - first]}\n"
                f"Claim: Poem A is better than Poem B.\n{CLAIM_ENDING}"
            )
            answer = f"{first}>{1 - first}"
            example = Example(f"{name}-{first}", prompt, group=name, answer=answer)
            yield example, (poems[first], poems[1 - first]), poems[first] is sun


def _pairs(seed: int, n_groups: int) -> Iterator[tuple[str, str]]:
    """Yield ``n_groups`` pairs (poem with the sun, poem without), no poem twice."""
    seen: set[str] = set()
    draw = 0
    while len(seen) < 2 * n_groups:
        pair = _pair(seed, draw)
        draw += 1
        if seen.isdisjoint(pair):
            seen.update(pair)
            yield pair


def _pair(seed: int, draw: int) -> tuple[str, str]:
    """Compose two poems of the same form: different lines, the sky in the same half."""
    key = ("poem", seed, draw)
    skies = _two(len(_SKIES), *key, "sky")
    couplets = _two(len(_COUPLETS), *key, "couplet")
    sky_first = digest(*key, "half") % 2 == 0
    poems = []
    for sky, couplet, has_sun in zip(skies, couplets, (True, False), strict=True):
        lines = (_SKIES[sky].lines, _COUPLETS[couplet])
        poem_key = (*key, has_sun)
        words = {slot: _pick(words, *poem_key, slot) for slot, words in _WORDS.items()}
        kinds = (_SKIES[sky].sun if has_sun else _SKIES[sky].other).split()
        words["sky"] = _pick(kinds, *poem_key, "sky").replace("-", " ")
        poems.append(" / ".join(lines if sky_first else lines[::-1]).format(**words))
    return poems[0], poems[1]


def _two(count: int, *key: object) -> tuple[int, int]:
    """Draw two different numbers below ``count``, each uniform."""
    first = digest(*key, 0) % count
    return first, (first + 1 + digest(*key, 1) % (count - 1)) % count


def _pick(words: tuple[str, ...] | list[str], *key: object) -> str:
    return words[digest(*key) % len(words)]
