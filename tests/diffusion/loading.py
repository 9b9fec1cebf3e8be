"""Pipelines that compute in float32 on every device, as the references were recorded."""

from functools import partial

from swiftai_nb.diffusion.pipelines import families

load_pipeline = partial(families.load_pipeline, dtype="float32")
