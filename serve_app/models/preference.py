"""PickScore and HPSv2: dual encoders that were trained on what people prefer.

Both are a CLIP with weights of its own, so each is another backend, told how it is to be used.
ImageReward, which scores pairs, is in `image_reward`.
"""

from __future__ import annotations

from serve_app.config.spec import ModelSpec
from serve_app.models.base import Placement
from serve_app.models.open_clip import OpenClipModel
from serve_app.models.preference_spec import base_of, hps_spec, pickscore_spec, published_file
from serve_app.models.torch_dual import LoadedDual
from serve_app.models.transformers_dual import TransformersModel
from serve_app.models.transformers_loading import Checkpoint


class PickScoreModel(TransformersModel):
    """PickScore (Kirstain et al. 2023): `logit` is the published score, about 15 to 25.

    Args:
        spec: The declared configuration.
        placement: Device, precision and threads, resolved.
    """

    def __init__(self, spec: ModelSpec, placement: Placement) -> None:
        super().__init__(pickscore_spec(spec), placement)

    def _checkpoint(self) -> Checkpoint:
        # The published repository has weights alone.
        return Checkpoint(self.spec, base_of(self.spec))


class HpsModel(OpenClipModel):
    """HPSv2 (Wu et al. 2023): `cosine` is the published score, about 0.2 to 0.35.

    Args:
        spec: The declared configuration.
        placement: Device, precision and threads, resolved.
    """

    def __init__(self, spec: ModelSpec, placement: Placement) -> None:
        super().__init__(hps_spec(spec, spec.pretrained), placement)
        self._declared = spec

    def _load(self) -> LoadedDual:
        if self._declared.pretrained is None:
            self.spec = hps_spec(self._declared, str(published_file(self._declared)))
        return super()._load()
