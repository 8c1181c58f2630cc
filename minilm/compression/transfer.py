"""Transfers a teacher's weights to a student, part by part, with a note about each part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import nn

from minilm.blocks.heads import MaskedLMHead
from minilm.blocks.transformer import TransformerLayer
from minilm.checkpoints.report import StudentReport
from minilm.compression.factorisation import EmbeddingMap, factorise, fold_head, widen
from minilm.compression.starts import BLOCKS, start_block
from minilm.files.progress import counted
from minilm.models.pretrained import PretrainedModel


class Transfer:
    """Fills a student with uninitialised tensors; every method fills one of its parts.

    Args:
        teacher: the model that values come from.
        student: the model to fill, in place.

    Attributes:
        taken: part of the student -> what was taken from the teacher.
        fresh: part of the student -> why it was drawn at random.
    """

    def __init__(self, teacher: PretrainedModel, student: PretrainedModel) -> None:
        self.teacher = teacher
        self.student = student
        self.taken: dict[str, str] = {}
        self.fresh: dict[str, str] = {}
        self._names: dict[int, str] = {id(module): name for name, module in student.named_modules()}
        widths = teacher.config.hidden_size, student.config.hidden_size
        self.same_width = widths[0] == widths[1]
        self._other_width = f"the hidden size is {widths[1]}, the teacher's {widths[0]}"

    def embeddings(self, fold_token_types: bool) -> EmbeddingMap | None:
        """Fills tables, norm and projection.

        Args:
            fold_token_types: add token type 0 to the positions of a student without token types.

        Returns:
            The map of the rows of the tables; None = they are the teacher's own.
        """
        source, target = self.teacher.base.embeddings, self.student.base.embeddings
        mapped: EmbeddingMap | None = None
        if source.embedding_size != target.embedding_size:
            whole = source.projection is not None and target.projection is None
            if whole and self.same_width:
                mapped = widen(source)
            else:
                projects = self.same_width and target.projection is not None
                hidden = self.student.config.hidden_size if projects else None
                mapped = factorise(source, target.embedding_size, hidden)
        elif source.projection is not None and target.projection is None and self.same_width:
            mapped = widen(source)

        self._table(source.word, target.word, mapped)
        self._table(source.position, target.position, mapped)
        if target.token_type is not None and source.token_type is not None:
            self._table(source.token_type, target.token_type, mapped)
        elif target.token_type is not None:
            target.token_type.weight.zero_()
            self.taken[self._name(target.token_type)] = "zeros: the teacher has no token types"
        elif source.token_type is not None and fold_token_types:
            folded = source.token_type.weight[0]
            if mapped is not None:
                folded = (mapped.rows @ folded.cpu().double()).to(folded)
            rows = min(len(source.position.weight), len(target.position.weight))
            target.position.weight[:rows] += folded
            self.taken[self._name(target.position)] += ", plus its token type 0"

        if mapped is None:
            self._copy(source.norm, target.norm, "the teacher's")
        else:
            target.norm.weight.fill_(mapped.gain)
            target.norm.bias.zero_()
            where = "in the projection"
            if target.projection is None:
                where = "its average effect alone" if mapped.bias is not None else "left out"
                if mapped.bias is not None:
                    target.norm.bias.copy_(mapped.bias)
            self.taken[self._name(target.norm)] = f"no gain of its own; the teacher's is {where}"
        if target.projection is not None:
            self._projection(source.projection, target.projection, mapped)
        return mapped

    def _projection(
        self, source: nn.Linear | None, target: nn.Linear, mapped: EmbeddingMap | None
    ) -> None:
        if not self.same_width:
            self._draw(target, self._other_width)
        elif mapped is not None:
            assert mapped.widened is not None
            assert mapped.bias is not None
            target.weight.copy_(mapped.widened)
            target.bias.copy_(mapped.bias)
            self.taken[self._name(target)] = "from the student's directions back to the teacher's"
        elif source is not None:
            self._copy(source, target, "the teacher's")
        else:
            nn.init.eye_(target.weight)
            target.bias.zero_()
            self.taken[self._name(target)] = "changes nothing: the embeddings are full width"

    def _table(
        self, source: nn.Embedding, target: nn.Embedding, mapped: EmbeddingMap | None
    ) -> None:
        wanted, rows = len(target.weight), min(len(source.weight), len(target.weight))
        name = self._name(target)
        if wanted > rows:
            self.student._initialise(target)
            self.fresh[f"{name}[{rows}:]"] = f"the teacher has {rows} rows"
        values, how = source.weight[:rows], "the teacher's"
        if mapped is not None:
            # the norm ignores the mean of a row, and `rows` removes it
            values = (values.cpu().double() @ mapped.rows.T).to(target.weight)
            how = f"the teacher's on {counted(mapped.directions, 'direction')}"
        target.weight[:rows] = values
        self.taken[name] = how if wanted >= len(source.weight) else f"{how}, the first {rows} rows"

    def layers(
        self, taught: Sequence[TransformerLayer], sources: Sequence[tuple[int, ...]]
    ) -> list[tuple[int, ...]]:
        """Fills all layers. A block that layers share is the mean of the layers they start from.

        Args:
            taught: the teacher's layers, in the order in which it applies them.
            sources: for each layer of the student, numbers of the teacher's; see `sources_of`.

        Returns:
            The sources that were used: none for a layer that was drawn at random.
        """
        ours, theirs = self.student.config, self.teacher.config
        reasons = {"attention": "", "feed_forward": ""}
        if not self.same_width:
            reasons = dict.fromkeys(reasons, self._other_width)
        else:
            if ours.num_attention_heads != theirs.num_attention_heads:
                reasons["attention"] = (
                    f"it has {counted(ours.num_attention_heads, 'head')}, the teacher "
                    f"{theirs.num_attention_heads}"
                )
            if ours.intermediate_size > theirs.intermediate_size:
                reasons["feed_forward"] = (
                    f"its inner width is {ours.intermediate_size}, the teacher's "
                    f"{theirs.intermediate_size}"
                )
        unique = dict.fromkeys(self.student.base.virtual_layers())
        own = [cast(TransformerLayer, layer) for layer in unique]
        starts: dict[int, set[int]] = {}  # id of a block, which layers may share -> its sources
        for layer, numbers in zip(own, sources, strict=True):
            for first, _ in BLOCKS:
                starts.setdefault(id(layer.get_submodule(first)), set()).update(numbers)
        narrower = ours.intermediate_size < theirs.intermediate_size
        apart = len(starts) == len(BLOCKS) * len(own)
        whole = apart and not narrower and not any(reasons.values())
        for layer in own:
            name = self._name(layer)
            for parts in BLOCKS:
                block = layer.get_submodule(parts[0])
                if id(block) not in starts:
                    continue
                common = sorted(starts.pop(id(block)))
                part = name if whole else self._name(block)
                reason = reasons[parts[0]] if common else "a random start"
                if reason:
                    for module in parts:
                        self.student._initialise(layer.get_submodule(module))
                    self.fresh[part if common else name] = reason
                    continue
                start_block(layer, [taught[number] for number in common], parts)
                shown = ", ".join(map(str, common))
                one = len(common) == 1
                self.taken[part] = f"layer {shown}" if one else f"the mean of layers {shown}"
                if parts[0] == "feed_forward" and narrower:
                    self.taken[part] += f", the strongest {ours.intermediate_size} neurons"
        return [() for _ in sources] if all(reasons.values()) else list(sources)

    def masked_lm_head(
        self,
        source: MaskedLMHead,
        mapped: EmbeddingMap | None,
        last: TransformerLayer,
        copy_transform: bool,
    ) -> None:
        """Fills the masked-LM head.

        Args:
            source: the teacher's head.
            mapped: the result of `embeddings`.
            last: the teacher's last layer, from whose norm the states come.
            copy_transform: copy dense layer and norm, too.
        """
        target = cast(MaskedLMHead, self.student.masked_lm_head)
        name = self._name(target)
        rows = min(len(source.bias), len(target.bias))
        target.bias.zero_()
        target.bias[:rows] = source.bias[:rows]
        self.taken[f"{name}.bias"] = "the teacher's"
        if not copy_transform or not self.same_width:
            self.student._initialise(target.dense)
            self.student._initialise(target.norm)
            reason = self._other_width if copy_transform else "asked for"
            self.fresh |= {f"{name}.dense": reason, f"{name}.norm": reason}
        elif mapped is None:
            target.dense.load_state_dict(source.dense.state_dict())
            target.norm.load_state_dict(source.norm.state_dict())
            self.taken |= {f"{name}.dense": "the teacher's", f"{name}.norm": "the teacher's"}
        else:
            words = self.teacher.base.embeddings.word.weight[:rows]
            norm = last.feed_forward_norm
            fold_head(source, words, target, mapped.rows, norm.weight, norm.bias)
            folded = "the linear map closest to the teacher's"
            self.taken |= {f"{name}.dense": folded, f"{name}.norm": folded}
            self.taken[f"{name}.bias"] += ", plus what is constant in the directions left out"

    def pooler(self) -> None:
        """Fills the pooler, if both models have one."""
        source, target = self.teacher.base.pooler, self.student.base.pooler
        if target is None:
            return
        if source is not None and self.same_width:
            self._copy(source, target, "the teacher's")
        else:
            self._draw(target, self._other_width)

    def report(
        self, sources: Sequence[tuple[int, ...]], mapped: EmbeddingMap | None
    ) -> StudentReport:
        """The report of what was done."""
        return StudentReport(
            teacher=type(self.teacher).__name__,
            student=type(self.student).__name__,
            layers=tuple(sources),
            taken=dict(self.taken),
            fresh=dict(self.fresh),
            retained_energy={} if mapped is None else dict(mapped.retained_energy),
        )

    def _name(self, module: nn.Module) -> str:
        return self._names[id(module)]

    def _copy(self, source: nn.Module, target: nn.Module, how: str) -> None:
        target.load_state_dict(source.state_dict())
        self.taken[self._name(target)] = how

    def _draw(self, target: nn.Module, why: str) -> None:
        self.student._initialise(target)
        self.fresh[self._name(target)] = why
