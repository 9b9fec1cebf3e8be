"""Records prompts with textual inversions, encoded by transformers with the vectors put in by hand:
`python record_embeddings.py [folder]`.
"""

import re
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[3]))
import record_sd

from tests.diffusion.parity import tiny_embeddings, tiny_sd


def vector(match, encoder):
    """One vector of a file for the encoder of its width."""
    arrays = tiny_embeddings.FILES[match[1]]
    fitting = [np.atleast_2d(a) for a in arrays.values() if a.shape[-1] == encoder.config.hidden_size]
    return torch.from_numpy(fitting[0][int(match[2])])


def encode(tokenizer, encoder, text, *, is_xl):
    ids, vectors = [tokenizer.bos_token_id], {}
    for part in re.split(r"(\{[\w-]+:\d+\})", text):
        match = re.fullmatch(r"\{([\w-]+):(\d+)\}", part)
        if match:
            vectors[len(ids)] = vector(match, encoder)
            ids.append(0)
        else:
            ids += tokenizer(part, add_special_tokens=False).input_ids
    ids.append(tokenizer.eos_token_id)
    ids += [tokenizer.pad_token_id] * (77 - len(ids))
    table = encoder.get_input_embeddings()

    def put_in(module, inputs, output):
        for place, values in vectors.items():
            output[0, place] = values
        return output

    hook = table.register_forward_hook(put_in)
    output = encoder(torch.tensor([ids]), output_hidden_states=True)
    hook.remove()
    state = output.hidden_states[-2] if is_xl else output.last_hidden_state
    return state, getattr(output, "text_embeds", None)


@torch.no_grad()
def main():
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "references"
    results = {}
    for name, (model, _, _, texts) in tiny_embeddings.CASES.items():
        made, _ = record_sd.networks(model)
        encoders = [made[part] for part in ("text_encoder", "text_encoder_2") if part in made]
        tokenizers = [record_sd.make_tokenizer(pad) for pad in tiny_sd.MODELS[model]["pad"]]
        for kind, text in zip(("prompt", "negative"), texts, strict=True):
            parts = [
                encode(tokenizer, encoder, text, is_xl=model == "sdxl")
                for tokenizer, encoder in zip(tokenizers, encoders, strict=True)
            ]
            results[f"{name}.{kind}"] = torch.cat([state for state, _ in parts], dim=-1)
            if parts[-1][1] is not None:
                results[f"{name}.{kind}.pooled"] = parts[-1][1]
    np.savez_compressed(folder / "embeddings.npz", **{k: v.numpy() for k, v in results.items()})


if __name__ == "__main__":
    main()
