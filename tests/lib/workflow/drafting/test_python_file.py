"""Python drafts of JavaScript and TypeScript workflow files."""

from functools import partial
from pathlib import Path

import pytest

from lib.errors import InvalidRequest
from lib.workflow.drafting.python_file import draft_python
from lib.workflow.endpoints.coded import CodedEndpoint, load_code
from lib.workflow.endpoints.running import Runner

GOLDEN = Path(__file__).resolve().parents[3] / "golden" / "workflow" / "txt2img.ts"
ENDS = "\nexport default { RequestSchema, generateWorkflow };\n"


def options(class_type: str, name: str) -> tuple[str, ...]:
    return {"ckpt_name": ("sd15",), "sampler_name": ("euler", "heun"), "scheduler": ("normal",)}[name]


async def load(folder: Path, text: str) -> CodedEndpoint:
    path, runner = folder / "drafted.py", Runner()
    path.write_text(text)
    return await runner.run(
        partial(load_code, path, name="drafted", runner=runner, limit_s=30.0), limit_s=30.0, name="load"
    )


async def test_a_usual_file_becomes_an_endpoint_as_it_is(tmp_path: Path) -> None:
    """Fields, ranges, defaults, lists of models, texts and graph; nothing is left to do."""
    drafted = draft_python(GOLDEN.read_text(), file="txt2img.ts")
    assert drafted.todo == ()
    assert "TODO" not in drafted.text
    endpoint = await load(tmp_path, drafted.text)
    assert (endpoint.summary, endpoint.description) == ("Text to image", "One picture of a text")
    bound = await endpoint.bind({"prompt": "a cat", "checkpoint": "sd15", "seed": 7}, options=options)
    assert bound.values == {
        "prompt": "a cat",
        "negative_prompt": "text, watermark",
        "width": 512,
        "seed": 7,
        "cfg_scale": 8.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "mode": "fast",
        "tags": [],
        "checkpoint": "sd15",
    }
    assert bound.graph["6"]["inputs"] == {"text": "a cat, {sharp}", "clip": ["4", 1]}
    assert bound.graph["3"]["inputs"]["seed"] == 7
    assert bound.graph["3"]["_meta"] == {"title": "KSampler"}
    fields = endpoint.schema(options)["properties"]
    assert (fields["width"]["minimum"], fields["width"]["maximum"], fields["width"]["default"]) == (256, 2048, 512)
    assert fields["mode"]["enum"] == ["fast", "good"]
    assert fields["negative_prompt"]["description"] == 'Not "this"'
    assert "default" not in fields["seed"]
    with pytest.raises(InvalidRequest, match=r"input\.checkpoint"):
        await endpoint.bind({"prompt": "a cat", "checkpoint": "sdxl"}, options=options)


async def test_what_is_not_understood_is_marked_and_fails_by_name(tmp_path: Path) -> None:
    """The file loads; a request reads which place is still to be translated."""
    script = """
    const RequestSchema = z.object({
      a: z.number().refine((x) => x % 2 == 1),
      b: z.record(z.string()),
      "c d": z.string(),
    });
    const generateWorkflow = (input) => ({ "1": { class_type: "A", inputs: { a: input.a ?? 1, b: other(input) } } });
    """
    drafted = draft_python(script + ENDS, file="x.js")
    assert set(drafted.todo) == {
        "field a: .refine((x) => x % 2 == 1)",
        "field b: its type: z.record(z.string())",
        "field c d: not a Python name",
        "graph: line 7: input.a ?? 1",
        "graph: other(input)",
    }
    assert "# TODO .refine((x) => x % 2 == 1)\n    a: float" in drafted.text
    endpoint = await load(tmp_path, drafted.text)
    with pytest.raises(InvalidRequest, match=r"not translated yet: input\.a \?\? 1"):
        await endpoint.bind({"a": 1, "b": {}}, options=options)


@pytest.mark.parametrize(
    ("script", "todo"),
    [
        ("", "the fields of RequestSchema"),
        ("", "no function generateWorkflow"),
        ("const RequestSchema = buildSchema();", "the fields of RequestSchema"),
        ("let a = z.string();\nif (x) { a = a.default('y') }", "line 2: a is set once more"),
        (
            "function generateWorkflow(input) {\n  const size = input.w * 2;\n  return {};\n}",
            "generate_workflow: what lines 2 to 3 do before the graph is returned",
        ),
        (
            "function generateWorkflow(input): A {\n  if (input.x) {\n    return {};\n  }\n  return {}\n}",
            "what lines 2 to 3 do before",
        ),
    ],
)
async def test_what_is_missing_is_said(tmp_path: Path, script: str, todo: str) -> None:
    """And what is drafted loads all the same."""
    drafted = draft_python(script, file="x.ts")
    assert any(todo in item for item in drafted.todo)
    await load(tmp_path, drafted.text)


WARM = """
let any_model: any = config.models.checkpoints.enum.optional();
if (config.warmupCkpt) {
  any_model = any_model.default(config.warmupCkpt);
}
const RequestSchema = z.object({
  one: any_model,
  two: z.string().refine((val: string) => config.models.loras.all.includes(val)).optional()
    .default(config.warmupCkpt || config.models.loras.all[0]).describe("A style"),
});
const generateWorkflow = (input) => ({ "1": { class_type: "A", inputs: { one: input.one, two: input.two } } });
"""


async def test_what_is_installed_first_is_the_default(tmp_path: Path) -> None:
    """As comfyui-api's own examples have it, of 1.9 and of now: a list of installed models, and the warm-up's."""
    drafted = draft_python(WARM + ENDS, file="x.ts")
    assert drafted.todo == ()
    endpoint = await load(tmp_path, drafted.text)
    installed = lambda class_type, name: {"ckpt_name": ("a", "b"), "lora_name": ("c", "d")}[name]  # noqa: E731
    assert (await endpoint.bind({}, options=installed)).graph["1"]["inputs"] == {"one": "a", "two": "c"}
    given = await endpoint.bind({"one": "b", "two": "d"}, options=installed)
    assert given.graph["1"]["inputs"] == {"one": "b", "two": "d"}
    assert endpoint.schema(installed)["properties"]["two"]["description"] == "A style"
    with pytest.raises(InvalidRequest, match=r"input\.two"):
        await endpoint.bind({"two": "a"}, options=installed)
    with pytest.raises(InvalidRequest, match="nothing is installed for ckpt_name"):
        await endpoint.bind({}, options=lambda class_type, name: ())


@pytest.mark.parametrize(
    "change",
    [
        ("any_model.default(config.warmupCkpt)", "any_model.default('x')"),
        ("includes(val))", "includes(val) && val !== 'x')"),
        ("includes(val))", "includes(other))"),
        ("models.loras.all.includes", "models.unheard_of.all.includes"),
        ("|| config.models.loras.all[0]", "|| pick()"),
        ("two: input.two", "two: `x/${input.two}`"),
    ],
)
async def test_what_only_looks_alike_is_left_to_do(tmp_path: Path, change: tuple[str, str]) -> None:
    """Nothing is taken for what it is not; the draft loads."""
    assert change[0] in WARM
    drafted = draft_python(WARM.replace(*change) + ENDS, file="x.ts")
    assert drafted.todo and "TODO" in drafted.text
    await load(tmp_path, drafted.text)


def test_taking_the_input_apart_is_understood() -> None:
    """The names stand for the fields then."""
    script = """
    export const RequestSchema = z.object({ text: z.string(), big: z.boolean().optional() });
    export async function generateWorkflow(input: Input): Promise<ComfyPrompt> {
      const { text, big } = input;
      return { "1": { class_type: "A", inputs: { text, big } } };
    }
    """
    drafted = draft_python(script, file="x.ts")
    assert drafted.todo == ()
    assert '"text": input.text' in drafted.text
    assert "    big: bool | None = Field(None)" in drafted.text
