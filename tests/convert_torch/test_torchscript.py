"""TorchScript archives: their state dict, equal to torch's, and nothing in them is ever run."""

import zipfile

import numpy as np
import pytest
import torch

from jaxseg.errors import UserError
from jaxseg_convert_torch import read_state_dict
from jaxseg_convert_torch.pth import read_pth

# Archives are written as they were; torch advises against it now.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
WAYS = pytest.mark.parametrize("way", ["script", "trace"])


class Inner(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = torch.nn.MultiheadAttention(8, 2)
        self.norm = torch.nn.BatchNorm1d(8)

    def forward(self, x):
        return self.attn(x, x, x, need_weights=False)[0] + x


class Outer(torch.nn.Module):
    """Modules, parameters and buffers, beside what is no part of a state dict."""

    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.Sequential(Inner(), Inner(), torch.nn.GELU())
        self.table = torch.nn.Parameter(torch.randn(3, 4))
        self.frozen = torch.nn.Parameter(torch.randn(2), requires_grad=False)
        self.register_buffer("size", torch.tensor(224))
        self.constant = torch.ones(5)
        self.sides = [1, 2]
        self.names = {"a": 1}
        self.shared = self.blocks[0].attn.out_proj

    def forward(self, x):
        for side in self.sides:
            x = x * side
        return self.blocks(x) * self.table.sum() * self.constant.sum()


def save(path, way="script", half=False, module=None):
    torch.manual_seed(0)
    module = (module or Outer()).eval()
    module = module.half() if half else module
    x = torch.randn(2, 3, 8, dtype=torch.float16 if half else torch.float32)
    made = torch.jit.script(module) if way == "script" else torch.jit.trace(module, x)
    made.save(path)
    return path


def assert_equal(found, path):
    wanted = torch.jit.load(path).state_dict()
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert str(found[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        np.testing.assert_array_equal(found[name], tensor.numpy(), name)


@WAYS
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_the_state_dict_is_torchs(tmp_path, way, half):
    path = save(tmp_path / "a.pt", way, half)
    found = read_state_dict(path)
    assert_equal(found, path)
    assert found["blocks.1.attn.in_proj_weight"].shape == (24, 8)
    assert found["size"] == 224
    assert "constant" not in found  # a plain attribute, no buffer
    assert found["table"].dtype == (np.float16 if half else np.float32)


def rewritten(path, change):
    """The archive with other files: `change` maps a name and its bytes to bytes or None."""
    with zipfile.ZipFile(path) as old:
        files = {info.filename: old.read(info) for info in old.infolist()}
    with zipfile.ZipFile(path, "w") as new:
        for name, content in files.items():
            if (changed := change(name, content)) is not None:
                new.writestr(name, changed)
    return path


def test_scripts_are_not_run(tmp_path):
    bait = tmp_path / "executed"
    code = f'\nimport os\nos.system("touch {bait}")\nraise SystemExit\n'.encode()
    path = rewritten(
        save(tmp_path / "a.pt"),
        lambda name, content: content + code if name.endswith(".py") else content,
    )
    assert "table" in read_pth(path)
    assert not bait.exists()


@pytest.mark.parametrize("name", ["posix system", "builtins eval", "__torch__x A", "__main__ A"])
def test_other_globals_are_refused_by_name(tmp_path, name):
    def change(file, content):
        old = b"ccollections\nOrderedDict\n"
        new = b"c" + name.replace(" ", "\n").encode() + b"\n"
        return content.replace(old, new) if file.endswith("/data.pkl") else content

    with pytest.raises(UserError, match=rf"refused: its pickle names {name.replace(' ', '.')}"):
        read_pth(rewritten(save(tmp_path / "a.pt"), change))


def test_a_script_class_in_a_plain_checkpoint_is_refused(tmp_path):
    path = rewritten(
        save(tmp_path / "a.pt"), lambda name, content: None if "/code/" in name else content
    )
    with pytest.raises(UserError, match=r"refused: its pickle names __torch__\.[\w.]*Outer"):
        read_pth(path)


def test_an_object_that_rebuilds_itself_is_refused(tmp_path):
    class Stateful(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

        @torch.jit.export
        def __getstate__(self):
            return (self.weight, self.training)

        @torch.jit.export
        def __setstate__(self, state: tuple[torch.Tensor, bool]):
            self.weight = state[0]
            self.training = state[1]

        def forward(self, x):
            return x * self.weight

    path = save(tmp_path / "a.pt", module=torch.nn.Sequential(Stateful()))
    with pytest.raises(UserError, match=r"names __torch__\.[\w.]*Stateful, whose objects are rebu"):
        read_pth(path)


def test_a_class_without_its_script_is_refused(tmp_path):
    def change(name, content):
        return None if "batchnorm" in name and name.endswith(".py") else content

    with pytest.raises(UserError, match=r"a class without a script \(.*batchnorm"):
        read_pth(rewritten(save(tmp_path / "a.pt"), change))


def test_damage_is_an_error_wherever_it_falls(tmp_path):
    path = save(tmp_path / "a.pt", module=torch.nn.Linear(2, 3))
    content, generator = path.read_bytes(), np.random.default_rng(0)
    for cut in range(0, len(content) - 1, max(1, len(content) // 40)):
        path.write_bytes(content[:cut])
        with pytest.raises(UserError, match=r"a\.pt"):
            read_pth(path)
    for _ in range(200):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), 4):
            damaged[position] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_pth(path)  # a flipped bit may leave a readable file
        except UserError:
            continue
