"""What an answer is held to: a JSON schema or a regular expression, as a grammar over the model's tokens.

The library is llguidance (`adafv[schema]`): 3 MB, needs no torch, one wheel for every Python, and its masks take
microseconds, so that nothing is compiled for minutes first. It is imported where it is used.

JSON is written as Python writes it, with one space after colons and commas. What stands before an answer
(`Processing.lead`) isn't part of its text.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from adafv.option import OptionError

if TYPE_CHECKING:
    from adafv.engine.options import EngineOptions
    from adafv.models import Processing

_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_SAMPLE = '{"a": [1, "é"]}'  # what every tokenizer that can write JSON can write


def check_grammar(options: EngineOptions) -> None:
    """Needs no model.

    Raises:
        OptionError: llguidance isn't installed, or can't do the schema or the expression.
    """
    name, value = _given(options)
    if value is None:
        return
    try:
        from llguidance import LLMatcher
    except ModuleNotFoundError as error:
        raise OptionError(name, value, "unset without llguidance: pip install 'adafv[schema]'") from error
    wrong, said = LLMatcher.validate_grammar_with_warnings(_lark(options, ""))
    if wrong:
        first, *more = said[0].splitlines()
        reason = next((line for line in more if line.startswith("error: ")), first.partition("): ")[2] or first)
        raise OptionError(name, value, f"one that llguidance can do ({reason})")


class Grammar:
    """The grammar of `options`, over the tokens of a model.

    Args:
        ends: tokens that end an answer.
        vocabulary: V, how many scores the model gives.

    Attributes:
        vocabulary, ends: those.

    Raises:
        OptionError: the model's tokens can't write any text.
        ValueError: nothing ends an answer.
    """

    def __init__(self, processing: Processing, options: EngineOptions, ends: list[int], vocabulary: int) -> None:
        import llguidance.hf

        if not ends:
            raise ValueError("the model has no token that ends an answer, which a schema or regex needs")
        try:
            self._tokens = llguidance.hf.from_tokenizer(processing.tokenizer, n_vocab=vocabulary, eos_token=ends)
        except ValueError as error:
            raise _unfit(options, str(error)) from error
        known = processing.tokenizer(_SAMPLE, add_special_tokens=False)["input_ids"]
        if self._tokens.decode_bytes(known).strip() != _SAMPLE.encode():
            raise _unfit(options, "it has no tokens for JSON")
        self._lead = processing.lead
        self.vocabulary, self.ends = vocabulary, frozenset(ends)
        self._matcher = self._new(_lark(options, self._lead))

    def _new(self, lark: str) -> Any:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokens, lark, log_level=0)
        if matcher.is_error():
            raise ValueError(f"llguidance can't do the grammar: {matcher.get_error()}")
        return matcher

    def begin(self) -> Any:
        """llguidance's matcher of an answer that begins."""
        return self._matcher.deep_copy()

    def text(self, ids: list[int]) -> tuple[str, bool]:
        """The text of an answer's tokens, and whether it fulfils the grammar."""
        said = [token for token in ids if token not in self.ends]
        matcher = self.begin()
        fulfilled = matcher.consume_tokens(said) and matcher.is_accepting()
        text = self._tokens.decode_bytes(said).decode("utf-8", "replace")
        return text.removeprefix(self._lead), bool(fulfilled)


def _given(options: EngineOptions) -> tuple[str, str | None]:
    """The option that an answer is held to, and its value; None where there is none."""
    return ("schema", options.schema) if options.schema is not None else ("regex", options.regex)


def _unfit(options: EngineOptions, why: str) -> OptionError:
    return OptionError(*_given(options), f"unset for this model: its tokenizer can't be held to a grammar ({why})")


def _lark(options: EngineOptions, lead: str) -> str:
    """The grammar in llguidance's language. Without forcing, its masks allow every spelling that its parser takes, not
    only the tokenizer's own where the text is certain."""
    if options.schema is not None:
        schema = json.loads(options.schema)
        body = "%json " + json.dumps(schema | {"x-guidance": _STYLE} if isinstance(schema, dict) else schema)
    else:
        body = f"/{_escaped(options.regex or '')}/"
    start = f"{json.dumps(lead)} body" if lead else "body"
    return f'%llguidance {{"no_forcing": true}}\nstart: {start}\nbody: {body}\n'


def _escaped(expression: str) -> str:
    """A regular expression as it stands between slashes: those of its own after a backslash, and in one line."""
    out, escaped, special = [], False, {"/": "\\/", "\n": "\\n"}
    for letter in expression:
        out.append(special[letter][escaped:] if letter in special else letter)  # has it a backslash, it needs no other
        escaped = letter == "\\" and not escaped
    return "".join(out)
