"""Prompts with weights for the tiny Stable Diffusions. Knows no framework."""

LONG = ", ".join(["a red ship", "the blue river", "two cats"] * 6)
# name -> (model, prompt, negative prompt)
CASES: dict[str, tuple[str, str, str]] = {
    "weight": ("sd15", "a (red:1.3) fox", "blurry"),
    "nested": ("sd15", r"a (((house:1.3)) [on] a (hill:0.5), \(sun\), (((sky))).", "(bad:1.4), [ugly]"),
    "unbalanced": ("sd15", "(a [b) c] :1.2) d (e", "f) (g:0.2"),
    "break": ("sd15", "a red fox BREAK (in:1.2) snow", "blur"),
    "odd": ("sd15", "(x : -0.5 ) (:1.2) () [] (a\\) b:1.1) ((1.5)) BREAK", "(:)"),
    "long": ("sd15", f"({LONG}:1.1)", "low"),
    "no_commas": ("sd15", "(a:1.2) ship on the river " * 6, "low " * 40),
    "padded": ("sd21_v", "a (red:1.3) fox BREAK in snow", "(bad:0.7)"),
    "sdxl": ("sdxl", f"a (fox:1.4) {LONG}", "[[ugly]]"),
}
# Two prompts followed at the same time, and one that is longer than the negative prompt.
RUNS = {
    "and": ("sd15", "a (red:1.2) cat AND a blue hat :0.6", "bad"),
    "and_sdxl": ("sdxl", "a (red:1.2) cat AND " + LONG + ":0.6", "bad"),
    "longer": ("sd15", f"a (red:1.2) cat, {LONG}", "bad"),
}
STEPS, GUIDANCE, SIDE = 3, 4.0, 32
STRIDE = 5  # of the tokens that are recorded
