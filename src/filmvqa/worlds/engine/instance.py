"""An instance of a question template on a scene: its values, outputs and question."""

from __future__ import annotations

from dataclasses import dataclass, field

from filmvqa.worlds.engine.families import Family, Template
from filmvqa.worlds.engine.programs import Filter, SceneIndex, SceneRecord, Value, answer_text
from filmvqa.worlds.engine.schema import Question


@dataclass
class Instance:
    """A partial instance of a template on a scene.

    Attributes
    ----------
    accepted
        The answers that the instance may have.
    budget
        Number of choices that the search may still try.
    values, outputs
        The values of the side inputs, and the output, of each node that has been instantiated.
    """

    template: Template
    scene_index: SceneIndex
    accepted: set[str] = field(default_factory=set)
    budget: int = 0
    values: list[Filter] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)

    def _named_values(self) -> list[dict[str, str | None]]:
        return [
            dict(zip(node.side_inputs, values, strict=True))
            for node, values in zip(self.template.nodes, self.values, strict=False)
        ]

    def parameters(self) -> dict[str, str | None]:
        """The values of the template's parameters."""
        return {name: value for named in self._named_values() for name, value in named.items()}

    def objects(self) -> list[int]:
        """The objects in the output of a complete referring expression."""
        output = int(self.outputs[-1])
        if self.template.nodes[-1].signature(self.scene_index.world)[1] == "object":
            return [output]
        return [i for i in range(output.bit_length()) if output >> i & 1]

    def question(self, family: Family, scene: SceneRecord, text: str) -> Question:
        """The record of a complete instance."""
        return Question(
            image_filename=scene.image_filename,
            question=text,
            image_index=scene.image_index,
            split=scene.split,
            question_family_index=family.index,
            answer=answer_text(self.outputs[-1]),
            program=self.template.program(self._named_values(), self.scene_index.world),
        )
