"""Candidate models: made by the path of a class, with the weights of a checkpoint file."""

import inspect
import pickle
import re
import reprlib
import zipfile
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint
from torchvision import models
from torchvision.transforms import v2

from .._checks import require_types
from .._class_path import ClassPath, instantiate
from .._digest import digest, of_file
from .._errors import in_a_line
from .._files import PathLike
from ..datasets import LabeledData
from ..metrics import TensorName

PREFIXES = ("module.", "model.", "_orig_mod.", "net.")  # that training puts before the names of a model's parameters
NESTED = ("state_dict", "model_state_dict", "model_state", "model")  # where a checkpoint keeps them
MOST_NESTED, MOST_PREFIXES = 8, 4  # one within the other, of a file that somebody made by training
MOST_NAMED = 5  # keys in an error
MOST_BYTES = 255  # of a file's name
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as torchvision's weights expect


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A source model that may be fine-tuned.

    Args:
        name: of the candidate, and of its folder of results.
        model: what makes it: `{"class_path": ..., "init_args": {...}}`, where the path is of a class or of a function
            that returns a model, or, without a dot, the name of a torchvision model.
        layer: whose features to score, as for `hooks.FeatureTap`.
        logits_layer: which gives the source model's class scores, for metrics that read them; "" is the model's own
            output.
        checkpoint: file of its weights (.pt, .pth, .safetensors); as it is made by default.
        transform: what the model needs done with an image, one after the other, each made as the model is. It must
            keep all of the image in view. Scaling to [0, 1] and by ImageNet's mean and deviation by default.
        source: the source data set, for metrics that compare with it.

    Raises:
        ValueError: a name that is none of a folder, or an option of another type.
    """

    name: str
    model: ClassPath
    layer: str
    logits_layer: str | None = None
    checkpoint: PathLike | None = None
    transform: Sequence[ClassPath] | None = None
    source: LabeledData | None = None

    def __post_init__(self) -> None:
        """Checks the options."""
        require_types(self, f"candidate {reprlib.repr(self.name)}")
        is_odd = not self.name.isprintable() or self.name != self.name.strip(" ") or self.name.endswith(".")
        if is_odd or re.fullmatch(r"|\..*|.*[/\\].*|(?i:ranking|report)\.\w+", self.name):
            raise ValueError(f"candidate {self.name!r}: a name must be that of a folder")
        if len(self.name.encode()) > MOST_BYTES:
            raise ValueError(f"candidate {self.name[:20]!r}...: a name of a folder has at most {MOST_BYTES} bytes")

    @property
    def layer_of(self) -> dict[TensorName, str]:
        """The layer that gives each tensor which a metric may read."""
        layers: dict[TensorName, str] = {"features": self.layer}
        return layers if self.logits_layer is None else layers | {"logits": self.logits_layer}

    @property
    def settings(self) -> dict[str, Any]:
        """What the model's features depend on, the contents of its checkpoint among it.

        Raises:
            ValueError: a checkpoint that is not a file.
            OSError: one that cannot be read.
        """
        if self.checkpoint is None:
            return asdict(self)
        return asdict(self) | {"checkpoint_digest": digest(of_file(_checked_file(self.checkpoint)))}

    def make(self) -> nn.Module:
        """The model with its weights, in evaluation mode.

        Raises:
            ValueError: a path that leads nowhere, arguments that do not fit, or a checkpoint that is none or of another
                model.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a model without a checkpoint is the same every time, too
            model: nn.Module = instantiate(self.model, torchvision_models(), kinds=(nn.Module,))
        if self.checkpoint is not None:
            load_weights(model, self.checkpoint)
        return model.eval()

    def make_transform(self) -> v2.Transform:
        """What is done with every image.

        Raises:
            ValueError: as `make`.
        """
        if self.transform is not None:
            return v2.Compose([nn.Identity(), *(instantiate(each, kinds=(Callable,)) for each in self.transform)])
        return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)])


@cache
def torchvision_models() -> dict[str, Callable[..., nn.Module]]:
    """What makes the models of torchvision, by name; nothing is downloaded unless weights are asked for."""
    makers: dict[str, Callable[..., nn.Module]] = {}
    for name in models.list_models():
        parameters = inspect.signature(models.get_model_builder(name)).parameters
        no_weights = {option: None for option in ("weights", "weights_backbone") if option in parameters}
        makers[name] = partial(models.get_model, name, **no_weights)
    return makers


def load_weights(model: nn.Module, path: PathLike) -> None:
    """Loads the weights of a checkpoint file into a model, which must be the one that they are of.

    They may lie in an entry "state_dict" or "model" of the file, and their names may start with what distributed
    training, Lightning or torch.compile put there. No code in the file is run.

    Args:
        model: changed in place.
        path: a .safetensors file, or one of torch.save.

    Raises:
        ValueError: a file that is none, is cut off, or holds code, or weights of another model; the message names keys.
    """
    own = model.state_dict()
    weights = _own_weights(own.keys(), _tensors(Path(path)))
    both = own.keys() & weights.keys()
    misfits = {
        "lacks": own.keys() - weights.keys(),
        "has beyond them": weights.keys() - own.keys(),
        "has in another shape": {name for name in both if own[name].shape != weights[name].shape},
        "has not as plain numbers": {name for name in both if not _is_copied(own[name], weights[name])},
    }
    if any(misfits.values()):
        entries = f"of the {len(own)} entries of this {type(model).__name__}"
        listed = "; ".join(f"{what} {len(names)}: {_some_names(names)}" for what, names in misfits.items() if names)
        raise ValueError(f"{path} is of another model: {entries} it {listed}")
    model.load_state_dict(weights)


def _some_names(names: Set[str]) -> str:
    """Some of the names, for an error."""
    shown = [name if len(name) <= MOST_BYTES else f"{name[:MOST_BYTES]}..." for name in sorted(names)[:MOST_NAMED]]
    return ", ".join(shown) + (", ..." if len(names) > MOST_NAMED else "")


def _is_copied(own: Tensor, weight: Tensor) -> bool:
    """Whether a weight is numbers that lie in memory, each for one of the model's own, and of the same kind."""
    is_plain = weight.layout == torch.strided and weight.device.type == "cpu" and not weight.is_quantized
    return is_plain and (weight.is_floating_point() or not own.is_floating_point())


def _checked_file(path: PathLike) -> Path:
    """The path, if it leads to a file: of a pipe or a device there may be no end."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file")
    return path


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file, by name."""
    contents = _contents(_checked_file(path))
    for _ in range(MOST_NESTED):
        inner = [contents[name] for name in NESTED if isinstance(contents, Mapping) and name in contents]
        contents = next((each for each in inner if isinstance(each, Mapping)), contents)
    entries = contents if isinstance(contents, Mapping) else {}
    tensors = {name: value for name, value in entries.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name")
    return tensors


def _contents(path: Path) -> Any:
    """What lies in a checkpoint file, which may be anything that holds no code."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file  # an extra, which most checkpoints do not need

            return load_file(path)
        if zipfile.is_zipfile(path):
            _check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise
    except pickle.UnpicklingError as error:
        message = (
            f"{path} is damaged or holds {_code_in(path)} beside tensors, which is not loaded: save model.state_dict()"
        )
        raise ValueError(message) from error
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(f"{path} is not a whole file of weights alone: {in_a_line(error)}") from error


def _check_sums(path: Path) -> None:
    """Compares what is in a file of torch.save with the checksums in it, which torch.load does not."""
    with zipfile.ZipFile(path) as file:
        parts = file.infolist()
        if sum(part.file_size for part in parts) > path.stat().st_size:
            raise ValueError("it claims to hold more than there is")
        has_sums = any(part.CRC for part in parts)  # torch.serialization.set_crc32_options(False) leaves them out
        if has_sums and (damaged := file.testzip()) is not None:
            raise ValueError(f"{damaged} in it does not have its checksum")


def _code_in(path: Path) -> str:
    """What a file of torch.save would run, by name, where it can be told."""
    try:
        return ", ".join(get_unsafe_globals_in_checkpoint(path)) or "code"
    except Exception:  # a file of old, or one that is damaged
        return "code"


def _own_weights(names: Set[str], weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights as the model names them; what training kept beside the model is left out with its prefix."""
    prefixes = [""]
    for prefix in prefixes:  # the shorter ones first
        inner = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if names & inner.keys():
            return inner
        if prefix.count(".") < MOST_PREFIXES:
            prefixes += [prefix + each for each in PREFIXES if any(name.startswith(each) for name in inner)]
    return weights
