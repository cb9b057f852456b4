"""An instance of a question template on a scene: its values, outputs and program."""

from __future__ import annotations

from filmvqa.worlds.engine.families import Template
from filmvqa.worlds.engine.programs import Filter, SceneIndex, Value
from filmvqa.worlds.engine.schema import Function


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

    def __init__(
        self, template: Template, scene_index: SceneIndex, accepted: set[str], budget: int = 0
    ) -> None:
        self.template = template
        self.scene_index = scene_index
        self.accepted = accepted
        self.budget = budget
        self.values: list[Filter] = []
        self.outputs: list[Value] = []

    def parameters(self) -> dict[str, str | None]:
        """The values of the template's parameters."""
        return {
            name: value
            for node, values in zip(self.template.nodes, self.values, strict=False)
            for name, value in zip(node.side_inputs, values, strict=True)
        }

    def program(self) -> list[Function]:
        """The functional program of a complete instance."""
        program: list[Function] = []
        last_steps: list[int] = []
        for node, values in zip(self.template.nodes, self.values, strict=True):
            inputs = [last_steps[i] for i in node.inputs]
            named = dict(zip(node.side_inputs, values, strict=True))
            last_steps.append(node.append_steps(program, inputs, named, self.scene_index.world))
        return program
