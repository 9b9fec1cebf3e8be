"""The parser, walked line by line: what exactly each line means, or the exact one line it is refused with."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from swiftai_nb.core.config import LoraReference
from swiftai_nb.core.errors import InvalidInputError
from swiftai_nb.core.outpaint import Outpaint
from swiftai_nb.core.recipe import Recipe
from swiftai_nb.notebook.magic.controls import read_control
from swiftai_nb.notebook.magic.option_values import Size
from swiftai_nb.notebook.magic.options import OPTIONS, Axis, help_text
from swiftai_nb.notebook.magic.parser import ImagineArguments, one_line, parse
from tests.waiting import LINEAR_TIME_S

VARIABLES: dict[str, Any] = {
    "animal": "red fox", "n": 4, "ratio": 0.123456, "words": ["snow", "ice"], "d": {"k": "sun", "a b": "moon"},
    "cfg": SimpleNamespace(model="sdxl-turbo", deep=SimpleNamespace(x=[1, 2])), "empty": "", "été": "summer",
    "sneaky": "{animal} --steps 9", "_hidden": "owl", "block": "a cat\nNegative prompt: dog", "folder": "out",
}  # fmt: skip
DEFAULTS = vars(ImagineArguments())


def meaning(line: str, body: str = "") -> dict[str, Any]:
    arguments = parse(line, body, variables=VARIABLES)
    return {k: v for k, v in vars(arguments).items() if v != DEFAULTS[k] and k != "given"}


def P(prompt: str, **rest: Any) -> dict[str, Any]:  # noqa: N802 - keeps the table narrow
    return {"prompt": prompt, **rest}


# (line, cell body, what it means)
GOOD: list[tuple[str, str, dict[str, Any]]] = [
    # words
    ("a red fox", "", P("a red fox")),
    ("", "a red fox", P("a red fox")),
    ("  a   red \t fox  ", "", P("a red fox")),
    ("a red fox", "in snow", P("a red fox in snow")),
    ("", "a red fox\nin snow\n\nat dawn\n", P("a red fox in snow at dawn")),
    ('"a red fox"', "", P("a red fox")),
    ("'a red fox'", "", P("a red fox")),
    ('"a red" "fox"', "", P("a red fox")),
    ('a sign that says "open late"', "", P('a sign that says "open late"')),
    ("dog's bone", "", P("dog's bone")),
    ("'tis the season", "", P("'tis the season")),
    ("rock 'n' roll", "", P("rock 'n' roll")),
    ("dogs' dinner --steps 4", "", P("dogs' dinner", steps=4)),
    ('6" nails and 5" nails', "", P('6" nails and 5" nails')),
    ('a "loose quote', "", P('a "loose quote')),
    ("a well-lit - moody - fox", "", P("a well-lit - moody - fox")),
    ("fox -- --steps is a word", "", P("fox --steps is a word")),
    ("--steps 3 -- -n 4 --size", "", P("-n 4 --size", steps=3)),
    ('a "--steps" sign', "", P('a "--steps" sign')),
    ("Ein Fuchs im Schnee, größer", "", P("Ein Fuchs im Schnee, größer")),
    ("雪の中の狐 --steps 4", "", P("雪の中の狐", steps=4)),
    ("🦊 ❄️ --seed 1", "", P("🦊 ❄️", seed=1)),
    ("a — fox – here", "", P("a — fox – here")),
    ("fox (red:1.2) [snow]", "", P("fox (red:1.2) [snow]")),
    ("100% wool, #ff0000 & co; $5 \\ no", "", P("100% wool, #ff0000 & co; $5 \\ no")),
    ("a -5 degree day", "", P("a -5 degree day")),
    ("x=1 a=b", "", P("x=1 a=b")),
    ("", "a cat --steps 4", P("a cat --steps 4")),
    ("", "A 50--50 split", P("A 50--50 split")),
    # options and words mixed
    ("a fox --steps 2 in snow", "", P("a fox in snow", steps=2)),
    ("--steps 2 a fox", "", P("a fox", steps=2)),
    ("--steps=2 a fox", "", P("a fox", steps=2)),
    ("a --guidance 7.5 fox --seed 3 jumps", "", P("a fox jumps", guidance=7.5, seed=3)),
    ("a fox --steps 2 --steps 5", "", P("a fox", steps=5)),
    ("--steps 2", "a fox", P("a fox", steps=2)),
    ("", "--steps 2 --seed 1\na fox", P("a fox", steps=2, seed=1)),
    ("--seed 1", "--steps 2\n--size square\na fox\n--no it is text", P("a fox", seed=1, steps=2, size=Size(word="square"), negative="it is text")),
    ("", "\n\n--steps 2\na fox", P("a fox", steps=2)),
    ("", "a fox\n--steps 2", P("a fox --steps 2")),
    # each option
    ("fox -m sd-1.5", "", P("fox", model="sd-1.5")),
    ("fox --model stabilityai/sdxl-turbo", "", P("fox", model="stabilityai/sdxl-turbo")),
    ('fox --model "my models/x"', "", P("fox", model="my models/x")),
    ("fox -e cloud -p fal-ai", "", P("fox", engine="cloud", provider="fal-ai")),
    ("fox --engine=local", "", P("fox", engine="local")),
    ("fox --base-url http://127.0.0.1:1234", "", P("fox", base_url="http://127.0.0.1:1234")),
    ("fox --bill-to acme", "", P("fox", bill_to="acme")),
    ("fox --extra quality=high --extra n=2", "", P("fox", extra_body=(("quality", "high"), ("n", 2)))),
    ("""fox --extra 'loras=[{"path": "x"}]'""", "", P("fox", extra_body=(("loras", [{"path": "x"}]),))),
    ("""fox --extra 'style="a b"' --extra x==""", "", P("fox", extra_body=(("style", "a b"), ("x", "=")))),
    ("fox --negative blurry", "", P("fox", negative="blurry")),
    ('fox --negative "blurry, dark"', "", P("fox", negative="blurry, dark")),
    ('fox --negative="blurry, dark"', "", P("fox", negative="blurry, dark")),
    ("fox --negative 'it is'", "", P("fox", negative="it is")),
    ("fox --steps 1000", "", P("fox", steps=1000)),
    ("fox --guidance 0", "", P("fox", guidance=0.0)),
    ("fox --guidance 1e1", "", P("fox", guidance=10.0)),
    ("fox --seed 0", "", P("fox", seed=0)),
    ("fox --seed 9007199254740991", "", P("fox", seed=2**53 - 1)),
    ("fox --seeds 1,2,3", "", P("fox", seeds=(1, 2, 3))),
    ("fox --seeds 5", "", P("fox", seeds=(5,))),
    ("fox --seeds 1-4", "", P("fox", seeds=(1, 2, 3, 4))),
    ("fox --seeds 1-3,9", "", P("fox", seeds=(1, 2, 3, 9))),
    ("fox --seeds 1..3", "", P("fox", seeds=(1, 2, 3))),
    ('fox --seeds "1, 2"', "", P("fox", seeds=(1, 2))),
    ("fox --size 64x64", "", P("fox", size=Size(64, 64))),
    ("fox -s 512X768", "", P("fox", size=Size(512, 768))),
    ("fox -s 512×768", "", P("fox", size=Size(512, 768))),
    ("fox -s 512", "", P("fox", size=Size(512, 512))),
    ("fox -s512x512", "", P("fox", size=Size(512, 512))),
    ("fox -s Portrait", "", P("fox", size=Size(word="portrait"))),
    ("fox --size wide", "", P("fox", size=Size(word="wide"))),
    ("fox -n 4", "", P("fox", count=4)),
    ("fox -n4", "", P("fox", count=4)),
    ("fox -n=4", "", P("fox", count=4)),
    ("fox --count 1000", "", P("fox", count=1000)),
    ("fox --image photo --strength 0.5", "", P("fox", image="photo", strength=0.5)),
    ('fox --image "my photo.png" --mask m.png', "", P("fox", image="my photo.png", mask="m.png")),
    ("a scarf --with fox", "", P("a scarf", references=("fox",))),
    ("a scarf --with fox[2] --with 'my hat.png'", "", P("a scarf", references=("fox[2]", "my hat.png"))),
    ("fox --image a.png --strength 0", "", P("fox", image="a.png", strength=0.0)),
    ("fox --lora a.safetensors", "", P("fox", loras=(LoraReference("a.safetensors"),))),
    ("fox --lora a:0.5 --lora b/c", "", P("fox", loras=(LoraReference("a", 0.5), LoraReference("b/c")))),
    ("fox --lora C:\\loras\\x", "", P("fox", loras=(LoraReference("C:\\loras\\x"),))),
    ("fox --lora a:-1", "", P("fox", loras=(LoraReference("a", -1.0),))),
    ("fox --scheduler dpm++2m-karras", "", P("fox", scheduler="dpm++2m-karras")),
    ('fox --scheduler "Euler a"', "", P("fox", scheduler="Euler a")),
    ("fox --clip-skip 2", "", P("fox", clip_skip=2)),
    ("fox --hires 1.5 --hires-strength 0.4 --hires-steps 8", "", P("fox", hires=1.5, hires_strength=0.4, hires_steps=8)),
    ("fox --control canny=photo.png:0.8", "", P("fox", controls=(read_control("canny=photo.png:0.8"),))),
    ("fox --image a --outpaint left=128,top=64", "", P("fox", image="a", outpaint=Outpaint(left=128, top=64))),
    ("fox --image a --mask b --feather 8", "", P("fox", image="a", mask="b", mask_feather=8)),
    ("fox --with a --image-guidance 2", "", P("fox", references=("a",), image_guidance_scale=2.0)),
    ("fox --upscale 2 --upscaler 4x.safetensors", "", P("fox", upscale=2.0, upscaler="4x.safetensors")),
    ("fox --guidance-rescale 0.7 --eta 0.5", "", P("fox", guidance_rescale=0.7, eta=0.5)),
    ("fox --embedding a.safetensors --embedding b", "", P("fox", embeddings=("a.safetensors", "b"))),
    ("fox --vae vae.safetensors", "", P("fox", vae="vae.safetensors")),
    ("fox --prompt-syntax weighted", "", P("fox", prompt_syntax="weighted")),
    ("fox --quantize 4", "", P("fox", quantization_bits=4)),
    ("fox --precision bfloat16", "", P("fox", precision="bfloat16")),
    ("fox --out img", "", P("fox", out="img")),
    ("fox -o été", "", P("fox", out="été")),
    ("fox --save fox.png", "", P("fox", save="fox.png")),
    ("fox --save out/{seed}-{n:03d}.png", "", P("fox", save="out/{seed}-{n:03d}.png")),
    ("fox --save {folder}/{seed}.png", "", P("fox", save="out/{seed}.png")),
    ("fox -q", "", P("fox", quiet=True)),
    ("fox --preview off", "", P("fox", preview="off")),
    ("fox --preview taesd --preview-every 5", "", P("fox", preview="taesd", preview_every=5)),
    ("fox --style pixel", "", P("fox", style="pixel")),
    ("fox -w", "", P("fox", widget=True)),
    ("-w", "", {"widget": True}),
    ("fox --bg", "", P("fox", background=True)),
    ("fox --dry-run", "", P("fox", dry_run=True)),
    ("fox --download -m sdxl-turbo", "", P("fox", download=True, model="sdxl-turbo")),
    ("--from old.png", "", {"recipe_from": "old.png"}),
    ("a cat --from old --steps 3", "", P("a cat", recipe_from="old", steps=3)),
    ("--from=old.png --strength 0.3", "", {"recipe_from": "old.png", "strength": 0.3}),
    ("--help", "", {"help": True}),
    ("-h", "", {"help": True}),
    ("--help --seed 1 --seeds 2 fox", "", P("fox", help=True, seed=1, seeds=(2,))),
    # clusters
    ("fox -n 9 --executor client", "", P("fox", count=9, executor="client")),
    ("--executor=client fox --grid steps=1,2", "", P("fox", executor="client", grid=(Axis("steps", (1, 2), ("1", "2")),))),
    # grids
    ("fox --grid steps=1,2,4", "", P("fox", grid=(Axis("steps", (1, 2, 4), ("1", "2", "4")),))),
    ("fox --grid steps=1,2 seed=1-3 here", "", P("fox here", grid=(Axis("steps", (1, 2), ("1", "2")), Axis("seed", (1, 2, 3), ("1", "2", "3"))))),
    ("--grid guidance=1,7.5 fox", "", P("fox", grid=(Axis("guidance", (1.0, 7.5), ("1", "7.5")),))),
    ("--grid=steps=1,2 fox", "", P("fox", grid=(Axis("steps", (1, 2), ("1", "2")),))),
    ('--grid prompt="a cat|a dog, blue"', "", {"grid": (Axis("prompt", ("a cat", "a dog, blue"), ("a cat", "a dog, blue")),)}),
    ('--grid prompt="a cat","a dog, blue" seed=1,2', "", {"grid": (Axis("prompt", ("a cat", "a dog, blue"), ("a cat", "a dog, blue")), Axis("seed", (1, 2), ("1", "2")))}),
    ("fox --grid size=64x64,wide", "", P("fox", grid=(Axis("size", (Size(64, 64), Size(word="wide")), ("64x64", "wide")),))),
    ("fox --grid scheduler=ddim,euler model=a,b", "", P("fox", grid=(Axis("scheduler", ("ddim", "euler"), ("ddim", "euler")), Axis("model", ("a", "b"), ("a", "b"))))),
    ("fox --grid lora=a:0.5,a:1", "", P("fox", grid=(Axis("lora", ((LoraReference("a", 0.5),), (LoraReference("a", 1.0),)), ("a:0.5", "a:1")),))),
    # interpolation
    ("a {animal}", "", P("a red fox")),
    ("", "a {animal} in {words[0]}", P("a red fox in snow")),
    ("{words[-1]} {d['k']} {d[\"k\"]}", "", P("ice sun sun")),
    ("{d['a b']}", "", P("moon")),
    ("{cfg.model} {cfg.deep.x[1]}", "", P("sdxl-turbo 2")),
    ("{ratio:.2f} {animal:>10}", "", P("0.12 red fox")),
    ("{n:03d} foxes", "", P("004 foxes")),
    ("{été}", "", P("summer")),
    ("{{animal}}", "", P("{animal}")),
    ("{{{animal}}}", "", P("{red fox}")),
    ('{"a": 1}', "", P('{"a": 1}')),
    ('{"a": {"b": [1, 2]}}', "", P('{"a": {"b": [1, 2]}}')),
    ("{a|b} {red, blue} {} {1} { animal }", "", P("{a|b} {red, blue} {} {1} { animal }")),
    ("{key: value}", "", P("{key: value}")),
    ("{", "", P("{")),
    ("}} {{", "", P("}} {{")),
    ("{sneaky}", "", P("{animal} --steps 9")),
    ("fox --steps {n}", "", P("fox", steps=4)),
    ("fox --negative {animal}", "", P("fox", negative="red fox")),
    ("fox --model {cfg.model}", "", P("fox", model="sdxl-turbo")),
    ("a cat --embed-references", "", P("a cat", embed_references=True)),
    ("a cat --plain", "", P("a cat", plain=True)),
    ("fox --raw {nope}", "", P("fox {nope}", raw=True)),
    ("--raw", "{{animal}} {animal}", P("{{animal}} {animal}", raw=True)),
    ("{empty}fox", "", P("fox")),
    ("", "{block}", P("a cat", negative="dog")),
    # negative prompts as web UIs write them
    ("", "a cat\nNegative prompt: ugly", P("a cat", negative="ugly")),
    ("", "a cat\nnegative PROMPT: ugly,\nbad", P("a cat", negative="ugly, bad")),
    ("--negative blurry", "a cat\nNegative prompt: ugly", P("a cat", negative="blurry, ugly")),
    ("", "a cat\n--no dogs\nin snow", P("a cat in snow", negative="dogs")),
    ("", "--no dogs\na cat", P("a cat", negative="dogs")),
    ("", "a cat, no dogs: none", P("a cat, no dogs: none")),
    ("", "a cat\nNegative prompt:", P("a cat")),
]  # fmt: skip

PASTED = "a cat,\n(masterpiece:1.2)\nNegative prompt: ugly,\nbad\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 12, Size: 512x768, Model: dream"
PASTED_RECIPE = Recipe(
    prompt="", model="dream", width=512, height=768, steps=20, guidance_scale=7.0, seed=12, scheduler="Euler a"
)  # fmt: skip
GOOD += [
    ("", PASTED, P("a cat, (masterpiece:1.2)", negative="ugly, bad", settings=PASTED_RECIPE)),
    ("--steps 4", PASTED, P("a cat, (masterpiece:1.2)", negative="ugly, bad", settings=PASTED_RECIPE, steps=4)),
    ("", "a cat\nSteps: 4, Seed: 1", P("a cat", settings=Recipe(prompt="", steps=4, seed=1))),
    ("", "Steps: to the moon", P("Steps: to the moon")),
]  # fmt: skip

WHOLE = "is not a whole number"
# (line, cell body, the one line)
BAD: list[tuple[str, str, str]] = [
    ("", "", "the prompt is empty; example: %imagine a red fox"),
    ("", "  \n ", "the prompt is empty; example: %imagine a red fox"),
    ("--steps 4", "", "the prompt is empty; example: %imagine a red fox"),
    ('""', "", "the prompt is empty; example: %imagine a red fox"),
    ("{empty}", "", "the prompt is empty; example: %imagine a red fox"),
    ("", "Negative prompt: ugly", "the prompt is empty; example: %imagine a red fox"),
    ("fox --step 4", "", "unknown option --step: did you mean --steps?"),
    ("fox --stepps 4", "", "unknown option --stepps: did you mean --steps?"),
    ("fox --Steps 4", "", "unknown option --Steps: did you mean --steps?"),
    ("fox --guidence 4", "", "unknown option --guidence: did you mean --guidance?"),
    ("fox --cfg 7", "", "unknown option --cfg: did you mean --guidance?"),
    ("fox --guidance_scale 7", "", "unknown option --guidance_scale: did you mean --guidance?"),
    ("fox --width 64", "", "unknown option --width: did you mean --size?"),
    ("fox --sampler ddim", "", "unknown option --sampler: did you mean --scheduler?"),
    ("fox --num-inference-steps 4", "", "unknown option --num-inference-steps: did you mean --steps?"),
    ("fox --no dogs", "", "unknown option --no: did you mean --negative?"),
    ("fox --dryrun", "", "unknown option --dryrun: did you mean --dry-run?"),
    ("fox --xyzzy 4", "", "unknown option --xyzzy; put -- before a prompt that contains such a word"),
    ("fox -style pixel", "", "unknown option -style: did you mean --style?"),
    ("fox -x", "", "unknown option -x; put -- before a prompt that contains such a word"),
    ("fox —steps 4", "", "unknown option —steps: did you mean --steps (two hyphens)?"),
    ("fox –seed 4", "", "unknown option –seed: did you mean --seed (two hyphens)?"),
    ("", "--stepz 4\nfox", "unknown option --stepz: did you mean --steps?"),
    ("fox --steps", "", "--steps needs a value: --steps N"),
    ("fox --steps --seed 1", "", "--steps needs a value: --steps N"),
    ("fox --steps -- 4", "", "--steps needs a value: --steps N"),
    ("fox --negative --xyz", "", "--negative needs a value: --negative TEXT"),
    ("fox --lora", "", "--lora needs a value: --lora SOURCE[:SCALE]"),
    ("fox --grid", "", "--grid needs a value: --grid steps=1,2,4 seed=1-3"),
    ("fox --grid --steps 3", "", "--grid needs a value: --grid steps=1,2,4 seed=1-3"),
    ("fox --quiet=yes", "", "--quiet takes no value"),
    ("fox --steps four", "", f"--steps 'four' {WHOLE}"),
    ("fox --steps 4.0", "", f"--steps '4.0' {WHOLE}"),
    ("fox --steps ''", "", f"--steps '' {WHOLE}"),
    ("fox --steps 0", "", "steps must be between 1 and 1000 (got 0)"),
    ("fox --steps -4", "", "steps must be between 1 and 1000 (got -4)"),
    ("fox --steps 1001", "", "steps must be between 1 and 1000 (got 1001)"),
    ("fox --seed -1", "", "seed must be between 0 and 9007199254740991 (got -1)"),
    ("fox --seed 1.5", "", f"--seed '1.5' {WHOLE}"),
    ("fox --guidance nan", "", "guidance_scale must be between 0 and 100 (got nan)"),
    ("fox --guidance -inf", "", "guidance_scale must be between 0 and 100 (got -inf)"),
    ("fox --guidance -1", "", "guidance_scale must be between 0 and 100 (got -1)"),
    ("fox --guidance much", "", "--guidance 'much' is not a number"),
    ("fox --size 0", "", "width must be between 16 and 4096 pixels (got 0)"),
    ("fox --size 7", "", "width must be between 16 and 4096 pixels (got 7)"),
    ("fox --size 100000", "", "width must be between 16 and 4096 pixels (got 100000)"),
    ("fox --size 64x8", "", "height must be between 16 and 4096 pixels (got 8)"),
    ("fox --size big", "", "--size 'big': use WxH (such as 512x768) or square, portrait, landscape, wide"),
    ("fox --size -64x64", "", "--size '-64x64': use WxH (such as 512x768) or square, portrait, landscape, wide"),
    ("fox --seeds 1,x", "", "--seeds 'x' is not a seed; use 0 to 9007199254740991"),
    ("fox --seeds 1,,2", "", "--seeds '' is not a seed; use 0 to 9007199254740991"),
    ("fox --seeds 4-1", "", "'4-1' is not a range of 1 to 1000 numbers"),
    ("fox --seeds 1-5000", "", "'1-5000' is not a range of 1 to 1000 numbers"),
    ("fox --count 0", "", "count must be between 1 and 1000 (got 0)"),
    ("fox -n 1001", "", "count must be between 1 and 1000 (got 1001)"),
    ("fox --preview blurry", "", "--preview 'blurry' is not one of auto, rgb, taesd, off"),
    ("fox --preview-every 0", "", "preview-every must be between 1 and 1000 (got 0)"),
    ("fox --out 2b", "", "--out '2b' is not a Python name"),
    ("fox --out a.b", "", "--out 'a.b' is not a Python name"),
    ("fox --out class", "", "--out 'class' is not a Python name"),
    ("fox --negative ''", "", "--negative is empty"),
    ("fox --negative blurry, dark", "", '--negative blurry, ends early; quote multi-word values: "..."'),
    ("fox --quantize 3", "", "quantization_bits must be one of 4, 5, 6, 8 (got 3)"),
    ("fox --outpaint 8", "", "--outpaint needs --image"),
    ("fox --image a --outpaint up=8", "", "outpaint has no side 'up'; outpaint='left=128,top=64', or '64' for all four sides"),
    ("fox --upscale 9", "", "upscale must be between 1 and 8 (got 9)"),
    ("fox --hires 0.5", "", "hires must be between 1 and 4 (got 0.5)"),
    ("fox --hires-strength 0.4", "", "--hires-strength needs --hires"),
    ("fox --eta 2", "", "eta must be between 0 and 1 (got 2)"),
    ("fox --clip-skip 20", "", "clip_skip must be between 0 and 12 (got 20)"),
    ("fox --image a.png --strength 2", "", "strength must be between 0 and 1 (got 2)"),
    ("fox --strength 0.5", "", "--strength needs --image"),
    ("fox --mask m.png", "", "--mask needs --image"),
    ("fox --lora a:99", "", "lora scale must be between -10 and 10 (got 99)"),
    ("fox --extra quality", "", "--extra 'quality': write NAME=VALUE, such as quality=high"),
    ("fox --extra =high", "", "--extra '=high': write NAME=VALUE, such as quality=high"),
    ("fox --seed 1 --seeds 2", "", "use --seeds or --seed, not both"),
    ("fox --seeds 1,2 -n 2", "", "use --seeds or --count, not both"),
    ("fox -n 2 --grid steps=1,2", "", "use --grid or --count, not both"),
    ("fox --executor 'my client'", "", "--executor 'my client' is not a Python name"),
    ("fox --executor c -w", "", "use --executor or --widget, not both"),
    ("fox --executor c --download", "", "use --executor or --download, not both"),
    ("fox --grid executor=a,b", "", "--grid cannot vary 'executor'; it can vary prompt, negative, style, image, strength, mask, feather, with, control, prompt-syntax, model, engine, provider, steps, guidance, image-guidance, size, scheduler, guidance-rescale, eta, lora, vae, embedding, clip-skip, quantize, precision, hires, hires-strength, hires-steps, upscale, upscaler, seed"),
    ("fox --cluster c", "", "unknown option --cluster: did you mean --executor?"),
    ("fox --prompt-syntax invoke", "", "--prompt-syntax 'invoke' is not one of plain, weighted, compel"),
    ("fox --bg -w", "", "use --bg or --widget, not both"),
    ("fox --grid steps=1 seed=1 size=64", "", "--grid has 3 axes; it takes one or two"),
    ("fox --grid steps=1,x", "", f"--steps 'x' {WHOLE}"),
    ("fox --grid out=a,b", "", "--grid cannot vary 'out'; it can vary prompt, negative, style, image, strength, mask, feather, with, control, prompt-syntax, model, engine, provider, steps, guidance, image-guidance, size, scheduler, guidance-rescale, eta, lora, vae, embedding, clip-skip, quantize, precision, hires, hires-strength, hires-steps, upscale, upscaler, seed"),
    ("fox {nope}", "", "no variable 'nope'; write {{nope}} for a literal brace, or add --raw"),
    ("", "fox {nope.x}", "no variable 'nope'; write {{nope.x}} for a literal brace, or add --raw"),
    ("fox {cfg.nope}", "", "cannot read {cfg.nope} (AttributeError: 'types.SimpleNamespace' object has no attribute 'nope')"),
    ("fox {words[9]}", "", "cannot read {words[9]} (IndexError: list index out of range)"),
    ("fox {d['x']}", "", "cannot read {d['x']} (KeyError: 'x')"),
    ("fox {n[0]}", "", "cannot read {n[0]} (TypeError: 'int' object is not subscriptable)"),
    ("fox {animal:d}", "", "cannot format {animal:d}: Unknown format code 'd' for object of type 'str'"),
    ("{_hidden}", "", "{_hidden} is not read: _hidden is a private name; write {{_hidden}} for a literal brace, or add --raw"),
    ("{cfg.__class__}", "", "{cfg.__class__} is not read: __class__ is a private name; write {{cfg.__class__}} for a literal brace, or add --raw"),
    ("{n:>900000000}", "", "the format of {n:>900000000} is too large; the most is 1000; write {{n:>900000000}} for a literal brace, or add --raw"),
    ("fox --steps {nope}", "", "no variable 'nope'; write {{nope}} for a literal brace, or add --raw"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "body", "expected"), GOOD)
def test_line_means(line: str, body: str, expected: dict[str, Any]) -> None:
    assert meaning(line, body) == expected


@pytest.mark.parametrize(("line", "body", "expected"), BAD)
def test_line_is_refused_in_one_line(line: str, body: str, expected: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse(line, body, variables=VARIABLES)
    assert one_line(caught.value) == expected
    assert "\n" not in one_line(caught.value)


def test_the_table_is_large_and_without_repetition() -> None:
    assert len(GOOD) + len(BAD) >= 200
    lines = [entry[:2] for entry in (*GOOD, *BAD)]
    assert len(set(lines)) == len(lines)


def test_every_option_is_in_the_table_and_in_the_help() -> None:
    text = help_text()
    for option in OPTIONS:
        spellings = {f"--{option.name}", f"-{option.short}"} if option.short else {f"--{option.name}"}
        lines = [f"{line} {body}".replace("=", " ").split() for line, body, _ in GOOD]
        assert any(spellings & set(words) for words in lines) or option.name == "seed", option
        assert f"--{option.name}" in text
        assert option.help in text


def test_given_names_what_was_typed() -> None:
    assert parse("fox --steps 4 -n 2").given == {"steps", "count"}


def test_a_prompt_of_a_hundred_thousand_characters_is_parsed() -> None:
    words = "fox " * 25_000
    assert parse(words).prompt == words.strip()
    assert parse("", words + "{{" * 1000).prompt.startswith("fox")


@pytest.mark.parametrize(
    ("line", "body"),
    [
        ("'a " * 20_000, ""),
        ('a,"a' * 20_000, ""),
        ("fox", "\n" * 300_000 + "red"),
        ("", "{{" + "|" * 60_000),
        ("", "{{|" * 60_000),
    ],
    ids=["quotes", "quotes after commas", "empty lines", "bars in braces", "braces with bars"],
)
def test_long_input_takes_no_time_out_of_proportion(line: str, body: str) -> None:
    began = time.process_time()
    assert parse(line, body).prompt
    assert time.process_time() - began < LINEAR_TIME_S
