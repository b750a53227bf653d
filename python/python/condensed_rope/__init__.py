"""Rotary position embedding by condensed positions, exact at every position, one launch for query and key.

    import condensed_rope
    condensed_rope.replace_llama_with_condense(8)   # before the model is made: it reads 8 times its context

torch and transformers are imported when something needs them.
"""

from ._core import HAS_CUDA, WORDS_FORMAT, Config, Frequencies, Sections, __version__

__all__ = [
    "CondenseRotaryEmbedding", "Config", "Frequencies", "HAS_CUDA", "KvCache", "Norm", "Positions", "Rope", "Sections", "WORDS_FORMAT",
    "__version__", "condense", "conforming", "inverse", "prepare", "replace_llama_with_condense", "replace_with_condense",
    "rotate", "rotate_", "rotate_append_",
]

_HOMES = {
    "CondenseRotaryEmbedding": "fastchat", "Positions": "positions", "Rope": "ops", "rotate": "ops", "rotate_": "ops",
    "rotate_append_": "ops", "KvCache": "ops", "Norm": "ops",
    "inverse": "ops", "prepare": "ops", "condense": "patch", "conforming": "patch", "replace_with_condense": "patch",
    "replace_llama_with_condense": "patch",
}


def __getattr__(name):
    if name in _HOMES:
        from importlib import import_module

        # Found here from now on, without this function.
        found = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
