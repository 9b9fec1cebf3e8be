"""Records weighted prompts of the tiny Stable Diffusions, computed step by step as AUTOMATIC1111's web UI
describes them, with transformers and diffusers: `python record_prompts.py [folder]`.
"""

import re
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
import diffusers
import record_sd

from tests.diffusion.parity import tiny_prompts, tiny_sd

ROOM, BACKTRACK = 75, 20
BREAK = "\0"


def weighted_letters(prompt):
    """[letter, weight] for each letter that is text; a BREAK is one letter."""
    prompt = re.sub(r"\s*\bBREAK\b\s*", BREAK, prompt)
    letters, opened, position = [], {"(": [], "[": []}, 0

    def weigh(start, factor):
        for letter in letters[start:]:
            letter[1] *= factor

    while position < len(prompt):
        letter = prompt[position]
        number = re.compile(r":\s*([+-]?[.\d]+)\s*\)").match(prompt, position)
        if letter == "\\" and prompt[position + 1 : position + 2] in tuple("()[]\\"):
            position += 1
            letters.append([prompt[position], 1.0])
        elif letter == "\\":
            pass
        elif letter in opened:
            opened[letter].append(len(letters))
        elif number and opened["("]:
            weigh(opened["("].pop(), float(number[1]))
            position = number.end() - 1
        elif letter == ")" and opened["("]:
            weigh(opened["("].pop(), 1.1)
        elif letter == "]" and opened["["]:
            weigh(opened["["].pop(), 1 / 1.1)
        else:
            letters.append([letter, 1.0])
        position += 1
    for start in opened["("]:
        weigh(start, 1.1)
    for start in opened["["]:
        weigh(start, 1 / 1.1)
    return letters


def weighted_tokens(tokenizer, prompt):
    """(id, weight) of each token, (None, 1) for a BREAK."""
    texts = []
    for letter, weight in weighted_letters(prompt):
        if letter != BREAK and texts and texts[-1][0] != BREAK and texts[-1][1] == weight:
            texts[-1][0] += letter
        else:
            texts.append([letter, weight])
    tokens = []
    for text, weight in texts:
        if text == BREAK:
            tokens.append((None, 1.0))
        else:
            ids = tokenizer(text, add_special_tokens=False).input_ids
            tokens += [(token, weight) for token in ids]
    return tokens


def chunks(tokenizer, prompt):
    comma = tokenizer.get_vocab()[",</w>"]
    done, current = [], []
    for token, weight in weighted_tokens(tokenizer, prompt):
        if token is None:
            done.append(current)
            current = []
            continue
        if len(current) == ROOM:
            places = [i for i, (other, _) in enumerate(current) if other == comma]
            cut = ROOM
            if token != comma and places and ROOM - places[-1] <= BACKTRACK:
                cut = places[-1] + 1
            done.append(current[:cut])
            current = current[cut:]
        current.append((token, weight))
    if current or not done:
        done.append(current)
    return done


def encode(tokenizer, encoder, prompt, *, is_xl):
    states, pooled = [], None
    for chunk in chunks(tokenizer, prompt):
        ids = [tokenizer.bos_token_id, *(token for token, _ in chunk), tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * (77 - len(ids))
        weights = torch.ones(77)
        weights[1 : len(chunk) + 1] = torch.tensor([weight for _, weight in chunk])
        output = encoder(torch.tensor([ids]), output_hidden_states=True)
        state = output.hidden_states[-2] if is_xl else output.last_hidden_state
        mean = state.mean()
        state = state * weights[None, :, None]
        states.append(state * (mean / state.mean()))
        if pooled is None:
            pooled = getattr(output, "text_embeds", None)
    return torch.cat(states, dim=1), pooled


class Model:
    def __init__(self, name):
        made, _ = record_sd.networks(name)
        self.made, self.is_xl = made, name == "sdxl"
        self.tokenizers = [record_sd.make_tokenizer(pad) for pad in tiny_sd.MODELS[name]["pad"]]
        self.encoders = [made[folder] for folder in ("text_encoder", "text_encoder_2") if folder in made]
        run = next(run for run in tiny_sd.RUNS.values() if run["model"] == name)
        config = tiny_sd.scheduler_config({**run, "scheduler": None})
        self.scheduler = diffusers.DDIMScheduler.from_config({**config, "clip_sample": self.is_xl})

    def encode(self, prompt):
        parts = [
            encode(tokenizer, encoder, prompt, is_xl=self.is_xl)
            for tokenizer, encoder in zip(self.tokenizers, self.encoders, strict=True)
        ]
        return torch.cat([states for states, _ in parts], dim=-1), parts[-1][1]

    def denoise(self, prompt, negative):
        """Every prompt is attended by itself; denoised = negative + guidance * sum of weight * difference."""
        parts = []
        for text in prompt.split(" AND "):
            weight = re.search(r":\s*([\d.]+)\s*$", text) if " AND " in prompt else None
            text = text if weight is None else text[: weight.start()]
            parts.append((self.encode(text), 1.0 if weight is None else float(weight[1])))
        longest = max(states.shape[1] for (states, _), _ in parts)
        side = tiny_prompts.SIDE // tiny_sd.VAE_SCALE
        latents = torch.from_numpy(tiny_sd.unit_noise("start", (1, side, side, 4))).movedim(-1, 1)
        self.scheduler.set_timesteps(tiny_prompts.STEPS)

        def predict(states, pooled, timestep):
            added = None
            if self.is_xl:
                size = [tiny_prompts.SIDE, tiny_prompts.SIDE]
                added = {"text_embeds": pooled, "time_ids": torch.tensor([[*size, 0, 0, *size]]).float()}
            return self.made["unet"](latents, timestep, states, added_cond_kwargs=added)[0]

        for timestep in self.scheduler.timesteps:
            base = predict(*self.encode(negative), timestep)
            total = base.clone()
            for (states, pooled), weight in parts:
                last = states[:, -1:].repeat(1, longest - states.shape[1], 1)
                output = predict(torch.cat([states, last], dim=1), pooled, timestep)
                total += tiny_prompts.GUIDANCE * weight * (output - base)
            latents = self.scheduler.step(total, timestep, latents).prev_sample
        return latents.movedim(1, -1)


@torch.no_grad()
def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "references"
    models = {name: Model(name) for name in ("sd15", "sd21_v", "sdxl")}
    results = {}
    for name, (model, prompt, negative) in tiny_prompts.CASES.items():
        for kind, text in (("prompt", prompt), ("negative", negative)):
            states, pooled = models[model].encode(text)
            results[f"{name}.{kind}"] = states[:, :: tiny_prompts.STRIDE]
            if pooled is not None:
                results[f"{name}.{kind}.pooled"] = pooled
    for name, (model, prompt, negative) in tiny_prompts.RUNS.items():
        results[f"{name}.latents"] = models[model].denoise(prompt, negative)
    np.savez_compressed(
        folder / "prompts.npz", **{k: v.numpy().astype(np.float32) for k, v in results.items()}
    )


if __name__ == "__main__":
    main()
