"""Reading `.pth` files: equal to torch, and nothing in them is ever run."""

import argparse
import collections
import io
import pathlib
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch

from jaxseg.errors import UserError
from jaxseg_convert_torch.pth import read_pth

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


def save(content, path, zipped=True, protocol=2):
    torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


def state_dict():
    base = torch.arange(24, dtype=torch.float32)
    shared = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    return collections.OrderedDict(
        plain=torch.randn(2, 3),
        transposed=shared.T,
        same_storage=shared[1:3, ::2],
        offset=base[5:11].reshape(2, 3),
        expanded=base[:1].expand(3, 4),
        scalar=torch.tensor(7),
        empty=torch.zeros(0, 3),
        half=torch.randn(3).half(),
        bfloat16=torch.randn(5).bfloat16(),
        double=torch.randn(2).double(),
        flags=torch.tensor([True, False]),
        bytes=torch.tensor([1, 255], dtype=torch.uint8),
        parameter=torch.nn.Parameter(torch.randn(2, 2)),
    )


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_are_read_as_torch_reads_them(tmp_path, zipped, protocol):
    expected = state_dict()
    read = read_pth(save(expected, tmp_path / "a.pth", zipped, protocol))
    assert list(read) == list(expected)
    for name, tensor in expected.items():
        tensor = tensor.detach()
        wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        assert read[name].shape == tuple(tensor.shape), name
        assert str(read[name].dtype) == str(tensor.dtype).removeprefix("torch."), name
        np.testing.assert_array_equal(read[name].astype(wide.numpy().dtype), wide.numpy(), name)


@FORMATS
def test_a_training_checkpoint_gives_its_arguments_as_a_dictionary(tmp_path, zipped):
    model = torch.nn.Linear(2, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 299,
        "args": argparse.Namespace(dilation=True, lr=1e-4, device="cuda"),
    }
    read = read_pth(save(content, tmp_path / "a.pth", zipped))
    assert read["args"] == {"dilation": True, "lr": 1e-4, "device": "cuda"}
    assert read["epoch"] == 299
    np.testing.assert_array_equal(read["model"]["weight"], model.weight.detach().numpy())
    expected = optimizer.state_dict()["state"][0]["exp_avg"].numpy()
    np.testing.assert_array_equal(read["optimizer"]["state"][0]["exp_avg"], expected)


class Payload:
    """Creates a file when a pickle that holds it is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@FORMATS
def test_a_file_with_code_is_refused_by_name_and_not_run(tmp_path, zipped):
    bait = tmp_path / "executed"
    path = save({"model": state_dict(), "bad": Payload(bait)}, tmp_path / "evil.pth", zipped)
    with pytest.raises(UserError, match=r"evil\.pth was refused: its pickle names \w+\.open") as e:
        read_pth(path)
    assert not bait.exists()
    assert "Nothing in it was run" in str(e.value)


@pytest.mark.parametrize(
    "name", ["posix system", "builtins eval", "torch._utils _import_dotted_name"]
)
def test_every_global_off_the_list_is_refused(tmp_path, name):
    body = b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n(X\x02\x00\x00\x00idtR."
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", body)
    with pytest.raises(UserError, match=name.replace(" ", r"\.")):
        read_pth(path)


def test_a_whole_pickled_module_is_refused_with_its_class(tmp_path):
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_pth(save(torch.nn.Linear(1, 1), tmp_path / "a.pth"))


@FORMATS
def test_damage_is_an_error_wherever_it_falls(tmp_path, zipped):
    path = save({"w": torch.arange(6.0)}, tmp_path / "a.pth", zipped)
    content, generator = path.read_bytes(), np.random.default_rng(0)
    for cut in range(0, len(content) - 1, max(1, len(content) // 60)):
        path.write_bytes(content[:cut])
        with pytest.raises(UserError, match=r"a\.pth"):
            read_pth(path)
    for _ in range(300):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), 4):
            damaged[position] = generator.integers(0, 256)
        path.write_bytes(damaged)
        try:
            read_pth(path)  # a flipped bit may leave a readable file
        except UserError:
            continue


def archive_of(path, numel, size, stride, offset, data):
    """A zip checkpoint of one tensor, described as told."""

    text = io.BytesIO()
    text.write(b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n(")
    text.write(
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    text.write(number(numel) + b"tQ")
    text.write(number(offset) + tuple_of(size) + tuple_of(stride) + b"\x89NtRs.")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", text.getvalue())
        archive.writestr("a/data/0", data)
    return path


def number(n):
    return pickle.dumps(n, 2)[2:-1]


def tuple_of(numbers):
    return b"(" + b"".join(number(n) for n in numbers) + b"t"


@pytest.mark.parametrize(
    ("numel", "size", "stride", "offset"),
    [
        (4, (5,), (1,), 0),
        (4, (2, 2), (3, 1), 0),
        (4, (2,), (1,), 3),
        (4, (2,), (-1,), 1),
        (4, (-2,), (1,), 0),
        (4, (2**39, 2**39), (0, 0), 0),
        (5, (4,), (1,), 0),
        (2**60, (4,), (1,), 0),
    ],
)
def test_a_tensor_never_reaches_past_its_bytes(tmp_path, numel, size, stride, offset):
    data = struct.pack("<4f", 1, 2, 3, 4)
    good = archive_of(tmp_path / "good.pth", 4, (2, 2), (2, 1), 0, data)
    np.testing.assert_array_equal(read_pth(good)["w"], [[1, 2], [3, 4]])
    with pytest.raises(UserError, match="damaged"):
        read_pth(archive_of(tmp_path / "bad.pth", numel, size, stride, offset, data))


def test_nested_keys_cannot_exhaust_the_interpreter(tmp_path):
    body = b"\x80\x02})" + b"\x85" * 200_000 + b"Ns."
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", body)
    with pytest.raises(UserError, match="damaged"):
        read_pth(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nowhere\.pth"):
        read_pth(tmp_path / "nowhere.pth")


@FORMATS
@pytest.mark.parametrize("protocol", [2, 4])
def test_settings_beside_the_model_do_not_keep_it_from_loading(tmp_path, zipped, protocol):
    args = argparse.Namespace(
        output_dir=pathlib.PosixPath("/runs/a"),
        device=torch.device("cuda", 1),
        dtype=torch.bfloat16,
        seen=collections.Counter("aab"),
        shape=torch.Size([2, 3]),
        groups={"a"},
        frozen=frozenset("b"),
        table=collections.defaultdict(list, a=[1]),
        best=np.float64(0.4),
        noise=np.arange(3),
    )
    content = {"model": {"weight": torch.arange(3.0)}, "args": args}
    read = read_pth(save(content, tmp_path / "a.pth", zipped, protocol))
    np.testing.assert_array_equal(read["model"]["weight"], [0, 1, 2])
    known = {"output_dir": "/runs/a", "device": "cuda:1", "dtype": "torch.bfloat16"}
    known |= {
        "seen": {"a": 2, "b": 1},
        "shape": (2, 3),
        "groups": ["a"],
        "frozen": ("b",),
        "table": {"a": [1]},
    }
    assert {name: read["args"][name] for name in known} == known
    assert not read["args"]["best"]


def test_the_tar_format_of_old_is_told_from_damage(tmp_path):
    path = tmp_path / "resnet50-19c8e357.pth"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"))
    with pytest.raises(UserError, match=r"tar format of before 0\.1\.10.*resnet50-0676ba61") as e:
        read_pth(path)
    assert "damaged" not in str(e.value)
