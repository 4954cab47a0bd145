"""ResNets: torchvision's names (timm's are the same), and those of Hugging Face's own ResNet."""

from jaxseg_convert_torch.table import Rename, Table, rename

# num_batches_tracked counts training steps of statistics that stay frozen here; fc is the
# ImageNet classifier, which no detector has.
COUNTERS = r"(.*\.)?num_batches_tracked"
CLASSIFIER = r"fc\.(weight|bias)"

NAMES = (
    ("conv1", "conv1"),
    ("bn1", "norm1"),
    ("layer{s}.{b}.conv{n}", "layer{s}_{b}/conv{n}"),
    ("layer{s}.{b}.bn{n}", "layer{s}_{b}/norm{n}"),
    ("layer{s}.{b}.downsample.0", "layer{s}_{b}/downsample_conv"),
    ("layer{s}.{b}.downsample.1", "layer{s}_{b}/downsample_norm"),
)
HUGGINGFACE_PARTS = (("convolution", "conv"), ("normalization", "norm"))


def resnet_modules(official: str = "", path: str = "") -> tuple[Rename, ...]:
    """Torchvision's names under prefixes that end with their separators."""
    return tuple(rename(official + theirs, path + ours) for theirs, ours in NAMES)


def huggingface_resnet_modules(official: str = "", path: str = "") -> tuple[Rename, ...]:
    """Hugging Face's own names; its stages and layers count from 0, ours from 1."""
    stem = [
        rename(f"{official}embedder.embedder.{theirs}", f"{path}{ours}1")
        for theirs, ours in HUGGINGFACE_PARTS
    ]
    blocks = []
    for stage in range(4):
        layers = f"{official}encoder.stages.{stage}.layers.{{b}}."
        block = f"{path}layer{stage + 1}_{{b}}/"
        for theirs, ours in HUGGINGFACE_PARTS:
            blocks += [
                rename(f"{layers}layer.{n}.{theirs}", f"{block}{ours}{n + 1}") for n in range(3)
            ]
            blocks.append(rename(f"{layers}shortcut.{theirs}", f"{block}downsample_{ours}"))
    return (*stem, *blocks)


TABLES = (Table("resnet", "torchvision ResNet", resnet_modules(), drops=(COUNTERS, CLASSIFIER)),)
