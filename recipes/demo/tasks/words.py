"""Word lists shared by the demo tasks."""

NAMES: tuple[tuple[str, str], ...] = (
    ("Mia", "She"),
    ("Ben", "He"),
    ("Ana", "She"),
    ("Tom", "He"),
    ("Lea", "She"),
    ("Max", "He"),
    ("Eva", "She"),
    ("Sam", "He"),
    ("Zoe", "She"),
    ("Leo", "He"),
    ("Amy", "She"),
    ("Dan", "He"),
)

THINGS: tuple[str, ...] = (
    "apples",
    "pens",
    "books",
    "coins",
    "cards",
    "eggs",
    "stamps",
    "shells",
    "marbles",
    "stickers",
    "cookies",
    "flowers",
    "balls",
    "keys",
    "stones",
    "toys",
)

CATEGORIES: dict[str, tuple[str, ...]] = {
    "fruit": ("apple", "banana", "cherry", "grape", "lemon", "mango", "peach", "plum"),
    "animal": ("dog", "cat", "horse", "tiger", "rabbit", "goat", "wolf", "zebra"),
    "tool": ("hammer", "saw", "drill", "wrench", "shovel", "axe", "pliers", "rake"),
    "vehicle": ("bus", "train", "truck", "tram", "bicycle", "ship", "taxi", "van"),
    "color": ("red", "blue", "green", "yellow", "purple", "orange", "black", "white"),
    "drink": ("tea", "coffee", "milk", "juice", "water", "cocoa", "soda", "cider"),
    "bird": ("eagle", "crow", "owl", "swan", "robin", "duck", "hawk", "stork"),
    "metal": ("iron", "copper", "silver", "gold", "zinc", "tin", "lead", "nickel"),
}

# noun: (three adjectives, where it is found)
TOPICS: dict[str, tuple[str, str, str, str]] = {
    "fox": ("quick", "red", "clever", "forest"),
    "river": ("long", "deep", "calm", "valley"),
    "moon": ("round", "bright", "cold", "sky"),
    "bakery": ("warm", "small", "busy", "town"),
    "bridge": ("old", "strong", "wide", "city"),
    "garden": ("green", "quiet", "sunny", "village"),
    "lamp": ("bright", "small", "yellow", "kitchen"),
    "piano": ("black", "heavy", "loud", "theater"),
    "whale": ("big", "blue", "gentle", "ocean"),
    "bee": ("tiny", "busy", "brave", "garden"),
    "castle": ("old", "tall", "gray", "hills"),
    "market": ("loud", "busy", "colorful", "town"),
    "desert": ("hot", "dry", "wide", "south"),
    "train": ("long", "fast", "loud", "station"),
    "camel": ("tall", "calm", "strong", "desert"),
    "library": ("quiet", "large", "useful", "school"),
    "tiger": ("fast", "strong", "wild", "jungle"),
    "island": ("small", "sunny", "green", "ocean"),
    "robot": ("smart", "useful", "heavy", "factory"),
    "violin": ("light", "brown", "gentle", "theater"),
    "owl": ("quiet", "clever", "brown", "forest"),
    "cloud": ("white", "soft", "light", "sky"),
    "harbor": ("busy", "windy", "large", "city"),
    "turtle": ("slow", "calm", "green", "pond"),
    "candle": ("warm", "soft", "yellow", "church"),
    "kite": ("light", "colorful", "fast", "park"),
    "snail": ("slow", "tiny", "soft", "garden"),
    "tower": ("tall", "gray", "strong", "city"),
    "farm": ("large", "green", "quiet", "valley"),
    "ship": ("big", "strong", "white", "harbor"),
    "horse": ("fast", "brown", "brave", "farm"),
    "clock": ("round", "old", "useful", "station"),
}

KEYWORDS: tuple[str, ...] = (
    "apple",
    "stone",
    "window",
    "winter",
    "letter",
    "music",
    "bread",
    "summer",
)

END_PHRASES: tuple[str, ...] = (
    "That is all I know.",
    "Thank you for reading.",
    "Please ask me more.",
    "I hope this helps.",
    "Have a nice day.",
    "Now it is your turn.",
)

POSTSCRIPTS: tuple[str, ...] = ("See you soon.", "Write back to me.", "Bring a friend.", "Stay well.")
