"""Answers out of given choices: how probable the model finds each of them, exactly, and without decoding.

A choice's probability is that of its tokens after the prompt; if the choice is a prefix of another one, with the answer
ending there. The probabilities are then normalised to sum to 1. What the model's generation config asks of
decoding has no part in it.

The choices' tokens form a tree in which shared beginnings stand once. Prefill gives the scores at its root; each other
token that is followed by one goes once through the language model, after the prompt's keys and values, and sees those
before it in the tree only (`_Chunk`). Single tokens take nothing but prefill. A large tree goes through in chunks,
depth-first: a node's ancestors are in its chunk, or are ancestors of the chunk's first node.

On a CPU each row is scored by itself, so that its probabilities are the same bits in every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from adafv.engine.controls import end_tokens
from adafv.engine.generation import Answer, Prefilled, prefill
from adafv.engine.sequence import Prompts
from adafv.models import Adapter, Processing
from adafv.uploading import uploaded

# Nodes that pass through the language model together, of all rows and of each; and whose scores are in memory at once.
_NODES_PER_PASS, _NODES_OF_A_ROW, _NODES_PER_SCORE = 8192, 1024, 256


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """Inner nodes of a tree that pass through the language model together: some in the order of the walk, after those
    that lead to the first of them.

    Attributes:
        tokens, depths: int64 [T], of each node; the root's children have depth 1.
        sees: bool [T, T], which nodes each attends to: those that lead to it, and itself.
        repeated: how many of the T are there for the others' sake only.
        edges: which of the tree's lead away from the others; `nodes`: int64, from which of the T each of them does.
    """

    tokens: np.ndarray
    depths: np.ndarray
    sees: np.ndarray
    repeated: int
    edges: slice
    nodes: np.ndarray


class ChoiceTree:
    """The tokens of choices as a tree of M inner nodes, of which 0 is the root, and E edges.

    Args:
        choices: the tokens of each; all are different.
        ends: tokens that end an answer.

    Attributes:
        edge_tokens, edge_nodes: int64 [E], the token of each edge and the inner node that it leads away from,
            ascending. An end token is an edge where a choice ends with which another one begins.

    Raises:
        ValueError: there is such a choice, and no end token.
    """

    def __init__(self, choices: Sequence[Sequence[int]], ends: Sequence[int]) -> None:
        root: dict[int, dict] = {}
        for choice in choices:
            node = root
            for token in choice:
                node = node.setdefault(token, {})
        self._choices = [tuple(choice) for choice in choices]
        # The walk: inner nodes in order, each with the token and the node before it.
        self._tokens, self._parents, depths = [-1], [-1], [0]
        numbers: dict[tuple[int, ...], int] = {(): 0}
        inner: list[dict[int, dict]] = [root]
        waiting: list[tuple[tuple[int, ...], dict[int, dict], int]] = [
            ((token,), child, 0) for token, child in reversed(root.items())
        ]
        while waiting:
            path, node, parent = waiting.pop()
            if not node:
                continue
            number = numbers[path] = len(inner)
            inner.append(node)
            self._tokens.append(path[-1])
            self._parents.append(parent)
            depths.append(len(path))
            waiting += [((*path, token), child, number) for token, child in reversed(node.items())]
        self._depths = np.array(depths, dtype=np.int64)
        stops = {numbers[choice] for choice in self._choices if choice in numbers}
        if stops and not ends:
            raise ValueError("a choice begins with another one, and the model has no token that ends an answer")
        edges = [
            (number, token)
            for number, node in enumerate(inner)
            for token in (*node, *(ends if number in stops else ()))
        ]
        self.edge_nodes = np.array([number for number, _ in edges], dtype=np.int64)
        self.edge_tokens = np.array([token for _, token in edges], dtype=np.int64)
        self._starts = np.searchsorted(self.edge_nodes, np.arange(len(inner) + 1))
        places = {edge: place for place, edge in enumerate(edges)}
        self._paths = [
            [places[numbers[choice[:length]], token] for length, token in enumerate(choice)] for choice in self._choices
        ]
        self._stops = [
            [places[numbers[choice], end] for end in ends] if choice in numbers else [] for choice in self._choices
        ]

    def __len__(self) -> int:
        """M."""
        return len(self._tokens)

    @property
    def depth(self) -> int:
        """The depth of the deepest inner node."""
        return int(self._depths.max())

    @property
    def first_edges(self) -> int:
        """How many edges lead away from the root; they come first."""
        return int(self._starts[1])

    def chunks(self, most: int) -> Iterator[_Chunk]:
        """All inner nodes but the root, at most so many at a time besides those that lead to them."""
        for first in range(1, len(self), most):
            end = min(first + most, len(self))
            path = [first]
            while self._parents[path[0]] > 0:
                path.insert(0, self._parents[path[0]])
            nodes = [*path[:-1], *range(first, end)]
            place = {node: at for at, node in enumerate(nodes)}
            sees = np.eye(len(nodes), dtype=bool)
            for at, node in enumerate(nodes):
                if self._parents[node] > 0:
                    sees[at] |= sees[place[self._parents[node]]]
            edges = slice(self._starts[first], self._starts[end])
            yield _Chunk(
                tokens=np.array([self._tokens[node] for node in nodes], dtype=np.int64),
                depths=self._depths[nodes],
                sees=sees,
                repeated=len(path) - 1,
                edges=edges,
                nodes=self.edge_nodes[edges] - first + len(path) - 1,
            )

    def answer(self, logprobs: np.ndarray) -> ScoredAnswer:
        """The most probable choice, of equals the first, by the log-probabilities of the edges, float32 [E]."""
        edges = logprobs.astype(np.float64)
        with np.errstate(invalid="ignore"):  # of scores that aren't finite
            stops = [[float(np.logaddexp.reduce(edges[places]))] if places else [] for places in self._stops]
        steps = [[*edges[path].tolist(), *stop] for path, stop in zip(self._paths, stops, strict=True)]
        scores = np.array([sum(each) for each in steps])
        best = int(scores.argmax())
        finite = bool(np.isfinite(scores).all())
        shares = np.exp(scores - scores.max()) if finite else np.zeros_like(scores)
        return ScoredAnswer(
            ids=[*self._choices[best]],
            finish_reason="stop",
            logprobs=steps[best] if finite else [float("nan")],
            choice=best,
            probabilities=(shares / max(shares.sum(), 1)).tolist(),
        )


@dataclass(frozen=True, slots=True)
class ScoredAnswer(Answer):
    """One of the choices. Its `logprobs` are those of its tokens, and of its end where another choice goes on.

    Attributes:
        choice: which one.
        probabilities: of each choice; they sum to 1.
    """

    choice: int
    probabilities: list[float]

    @property
    def lead(self) -> float:
        """How much more probable it is than the next one."""
        others = [*self.probabilities[: self.choice], *self.probabilities[self.choice + 1 :]]
        return self.probabilities[self.choice] - max(others, default=0.0)


class ChoiceScorer:
    """Scores choices with a loaded model."""

    def __init__(self, adapter: Adapter, processing: Processing, prefix: str = "") -> None:
        self._adapter, self._device = adapter, adapter.model.device
        ends = end_tokens(adapter.model.generation_config)
        self._tree = lru_cache(maxsize=64)(lambda choices: ChoiceTree(choice_tokens(processing, choices, prefix), ends))

    @torch.inference_mode()
    def __call__(
        self,
        groups: Sequence[Prompts],
        choices: Sequence[tuple[str, ...]],
        on_prefilled: Callable[[], None],
        on_step: Callable[[], None],
    ) -> list[Answer]:
        """The best choice of each sample, in the batch's order.

        Args:
            groups: the B prompts; on a CPU one in each group.
            choices: of each sample, in the batch's order.
            on_prefilled: called when all prompts' prefill is queued; `on_step`: whenever something is.
        """
        alone = self._device.type == "cpu"
        parts = [[group] for group in groups] if alone else [groups]
        begun = [self._begin(part, choices, on_step) for part in parts]
        on_prefilled()
        queued = [edges for part in begun for edges in self._score(part, on_step)]
        answers: dict[int, Answer] = {}
        for part in begun:
            for row, tree in zip(part.rows, part.trees, strict=True):
                answers[row] = tree.answer(queued.pop(0).cpu().numpy())
        return [answers[row] for row in range(len(choices))]

    def _begin(
        self, groups: Sequence[Prompts], choices: Sequence[tuple[str, ...]], on_step: Callable[[], None]
    ) -> _Part:
        rows = [row for group in groups for row in group.rows]
        trees = [self._tree(choices[row]) for row in rows]
        most = max(1, min(_NODES_OF_A_ROW, _NODES_PER_PASS // len(rows)))
        if self._adapter.states:  # a state is of one way through the tree
            most = 1
        widest = max(min(most, len(tree) - 1) + tree.depth for tree in trees)
        return _Part(rows, trees, most, prefill(self._adapter, groups, widest, on_step))

    def _score(self, part: _Part, on_step: Callable[[], None]) -> list[Tensor]:
        """float32 [E] each: the log-probabilities of the edges of the part's trees."""
        found = []
        for tree, scores in zip(part.trees, part.prompts.scores, strict=True):
            tokens = tree.edge_tokens[: tree.first_edges]
            found.append([_logprobs(scores[None], np.zeros_like(tokens), tokens)])
        waiting = [tree.chunks(part.most) for tree in part.trees]
        while any(chunks := [next(each, None) for each in waiting]):
            hidden = self._pass(part, chunks)
            on_step()
            for row, (tree, chunk) in enumerate(zip(part.trees, chunks, strict=True)):
                if chunk is not None:
                    found[row] += self._edges(hidden[row], chunk, tree.edge_tokens[chunk.edges])
        return [torch.cat(each) for each in found]

    def _pass(self, part: _Part, chunks: Sequence[_Chunk | None]) -> Tensor:
        """[b, T, D]: the hidden states of the rows' next chunks, the shorter ones filled up on the right."""
        longest = max(len(chunk.tokens) for chunk in chunks if chunk is not None)
        tokens, depths = (np.zeros((len(chunks), longest), dtype=np.int64) for _ in range(2))
        sees = np.zeros((len(chunks), longest, longest), dtype=bool)
        for row, chunk in enumerate(chunks):
            if chunk is not None:
                length = len(chunk.tokens)
                tokens[row, :length], depths[row, :length] = chunk.tokens, chunk.depths - 1
                sees[row, :length, :length] = chunk.sees
        deep, prompts = uploaded(torch.from_numpy(depths), self._device), part.prompts
        prompts.cache.begin_branches(prompts.width, longest, prompts.lengths[:, None] + deep)
        column = torch.arange(prompts.width, device=self._device)
        prompt = (column < prompts.lengths[:, None])[:, None, None].expand(-1, 1, longest, -1)
        own = uploaded(torch.from_numpy(sees), self._device)[:, None]
        embeds = self._adapter.embed(uploaded(torch.from_numpy(tokens), self._device))
        mask = torch.cat([prompt, own], dim=3)
        return prompts.cache.forward(self._adapter, embeds, prompts.following[:, None] + deep, mask)

    def _edges(self, hidden: Tensor, chunk: _Chunk, tokens: np.ndarray) -> Iterator[Tensor]:
        """The log-probabilities of a chunk's edges, by hidden states [T, D], a few nodes at a time."""
        for first in range(chunk.repeated, len(chunk.tokens), _NODES_PER_SCORE):
            some = slice(*np.searchsorted(chunk.nodes, (first, first + _NODES_PER_SCORE)))
            scores = self._adapter.score(hidden[first : min(first + _NODES_PER_SCORE, len(chunk.tokens))])
            yield _logprobs(scores, chunk.nodes[some] - first, tokens[some])


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Rows of a batch that are scored together.

    Attributes:
        rows, trees: which of the batch's, and the choices of each.
        most: nodes of each that pass through the language model together.
    """

    rows: list[int]
    trees: list[ChoiceTree]
    most: int
    prompts: Prefilled


def choice_tokens(processing: Processing, choices: Sequence[str], prefix: str = "") -> list[tuple[int, ...]]:
    """The tokens of each choice as an answer, after what all answers begin with.

    Raises:
        ValueError: the model has no token for a part of one, or the same tokens for two.
    """
    tokens = [tuple(processing.answer_ids(choice, prefix)) for choice in choices]
    known: dict[tuple[int, ...], str] = {}
    for choice, ids in zip(choices, tokens, strict=True):
        if not ids or processing.tokenizer.unk_token_id in ids:
            raise ValueError(f"the model has no tokens for the choice {choice!r}")
        if ids in known:
            raise ValueError(f"the choices {known[ids]!r} and {choice!r} are the same tokens to the model")
        known[ids] = choice
    return tokens


def _logprobs(scores: Tensor, nodes: np.ndarray, tokens: np.ndarray) -> Tensor:
    """float32 [e]: the log-probabilities of tokens after nodes, whose scores are [n, V]."""
    scores = scores.float()
    rows, columns = (uploaded(torch.from_numpy(each), scores.device) for each in (nodes, tokens))
    return scores[rows, columns] - scores.logsumexp(dim=1)[rows]
