"""Hostile checkpoints, each with the error it must give, or None where it must be read."""

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from weight_conversion.checkpoints import open_source

Make = Callable[[Path], None]
CHECKPOINTS: dict[str, tuple[Make, str | None]] = {}
MINIMAL = b"\x80\x02}X\x01\x00\x00\x00w"  # a dict, and the key of what follows
HUGE = 3 << 30


def hostile(message: str | None) -> Callable[[Make], Make]:
    """Registers a file and what its error must say."""

    def register(make: Make) -> Make:
        CHECKPOINTS[make.__name__] = (make, message)
        return make

    return register


def read_all(path: Path) -> None:
    """Opens a checkpoint and loads every tensor of it."""
    with open_source(path) as source:
        for tensor in source.tensors.values():
            assert tensor.load().shape == tensor.shape


def opcodes(path: Path, body: bytes) -> None:
    path.write_bytes(b"\x80\x02" + body + b".")


def sparse(path: Path, start: bytes, size: int = HUGE) -> None:
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)


TWICE = b")" + b"2\x86" * 40  # a tuple that holds the one before it twice


@hostile("holds no model")
def tuple_that_doubles(path):
    opcodes(path, b"}X\x01\x00\x00\x00a" + TWICE + b"s")


@hostile("a key is")
def tuple_that_doubles_as_a_key(path):
    opcodes(path, b"}" + TWICE + b"Ns")


@hostile("a key is")
def tuple_that_doubles_in_a_set(path):
    opcodes(path, b"\x8f(" + TWICE + b"\x90")


@hostile("a key is")
def tuple_that_doubles_in_a_frozen_set(path):
    opcodes(path, b"(" + TWICE + b"\x91")


@hostile("a key is")
def tuple_that_doubles_for_a_set_s_maker(path):
    opcodes(path, b"c__builtin__\nset\n]" + TWICE + b"a\x85R")


@hostile("an array type has the state")
def tuple_that_doubles_as_an_array_type_s_state(path):
    opcodes(path, b"cnumpy\ndtype\nX\x02\x00\x00\x00f4\x85R" + TWICE + b"b")


@hostile("is not a shape")
def tuple_that_doubles_as_a_shape(path):
    torch_file(path, MINIMAL + tensor(TWICE, shape(1)) + b"s.")


@hostile("bytes are encoded as")
def bytes_of_another_codec(path):
    opcodes(path, b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00idna64\x86R")


@hostile("bytes are encoded as")
def bytes_of_a_text_by_any_codec(path):
    text = b"X\x01\x00\x00\x00aX\x06\x00\x00\x00idna64\x86R"
    opcodes(path, b"c__builtin__\nbytes\n" + text)


@hostile("bytes are made of")
def two_billion_bytes(path):
    opcodes(path, b"c__builtin__\nbytes\nJ\x00\x94\x35\x77\x85R")


@hostile("nested deeper")
def deep_lists(path):
    opcodes(path, b"]" * 200_000 + b"a" * 199_999)


@hostile("a key is")
def deep_tuple_as_a_key(path):
    opcodes(path, b"})" + b"\x85" * 200_000 + b"Ns")


@hostile("instructions")
def three_million_lists(path):
    opcodes(path, b"]" * 3_000_000)


@hostile("instructions")
def three_million_copies(path):
    opcodes(path, b"N" + b"2" * 3_000_000)


@hostile("a line has more than")
def text_line_of_3_gb(path):
    sparse(path, b"\x80\x02V" + b"a" * 99)


@hostile("a line has more than")
def name_line_of_3_gb(path):
    sparse(path, b"\x80\x02c" + b"a" * 99)


@hostile("near byte")
def number_line_of_many_digits(path):
    opcodes(path, b"I" + b"9" * 4000 + b"x\n")


@hostile("a number claims")
def long_of_2_gb(path):
    opcodes(path, b"\x8b\xff\xff\xff\x7f")


@hostile("a string claims")
def text_of_16_eb(path):
    opcodes(path, b"\x8d" + b"\xff" * 8)


@hostile("no admitted pickle instruction")
def extension_code(path):
    opcodes(path, b"\x82\x01")


@hostile("it asks to run code")
def command(path):
    opcodes(path, b"cos\nsystem\nX\x04\x00\x00\x00true\x85R")


@hostile("it asks to run code")
def command_beside_a_list_within_itself(path):
    opcodes(path, b"]q\x00h\x00acos\nsystem\n0")


@hostile("of a list")
def list_within_itself(path):
    opcodes(path, b"]q\x00h\x00a")


@hostile("a mark is missing")
def mark_that_is_missing(path):
    opcodes(path, b"Nt")


STORAGE = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"


def torch_file(path: Path, pickled: bytes, data: bytes = b"\0" * 64) -> None:
    """A file of torch with one storage of 16 floats, and the pickle given."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", data)


def tensor(size: bytes, stride: bytes, offset: bytes = b"K\x00") -> bytes:
    return (
        STORAGE
        + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x10tQ"
        + offset
        + size
        + stride
        + b"\x89}tR"
    )


def shape(*sides: int) -> bytes:
    return pickle.dumps(tuple(sides), 2)[2:-1]


@hostile("70 axes")
def torch_tensor_of_70_axes(path):
    torch_file(path, MINIMAL + tensor(shape(*[1] * 70), shape(*[1] * 70)) + b"s.")


@hostile("a side of")
def torch_tensor_whose_sides_overflow(path):
    torch_file(path, MINIMAL + tensor(shape(2**70, 0), shape(1, 1)) + b"s.")


@hostile("a side of")
def torch_tensor_whose_stride_overflows(path):
    torch_file(path, MINIMAL + tensor(shape(2), shape(2**70)) + b"s.")


@hostile("is not a shape")
def torch_tensor_of_negative_stride(path):
    torch_file(path, MINIMAL + tensor(shape(2), shape(-1)) + b"s.")


@hostile("exceeds its 16 elements")
def torch_tensor_beyond_its_storage(path):
    torch_file(path, MINIMAL + tensor(shape(2), shape(1), b"K\x0f") + b"s.")


@hostile("repeats elements")
def torch_tensor_that_repeats_a_trillion_times(path):
    torch_file(path, MINIMAL + tensor(shape(2**40), shape(0)) + b"s.")


@hostile("more than 64 times")
def torch_tensors_that_read_one_storage_a_hundred_thousand_times(path):
    views = b"".join(
        b"X\x05\x00\x00\x00%05d" % i + tensor(shape(16), shape(1)) for i in range(20_000)
    )
    torch_file(path, b"\x80\x02}(" + views + b"u.")


@hostile("elements")
def torch_storage_of_2_to_the_200_elements(path):
    count = pickle.dumps(2**200, 2)[2:-1]
    body = STORAGE + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu" + count + b"tQK\x00"
    torch_file(path, MINIMAL + body + shape(1) + shape(1) + b"\x89}tRs.")


@hostile("a tensor's name is")
def name_of_half_a_letter(path):
    key = b"V\\ud800\n"
    torch_file(path, b"\x80\x02}" + key + tensor(shape(16), shape(1)) + b"s.")


@hostile("near byte")
def name_of_broken_utf8(path):
    torch_file(path, b"\x80\x02}X\x02\x00\x00\x00\xff\xfe" + tensor(shape(16), shape(1)) + b"s.")


@hostile(None)
def name_with_markup(path):
    torch_file(path, b"\x80\x02}X\x0a\x00\x00\x00[/b][red]x" + tensor(shape(16), shape(1)) + b"s.")


@hostile(None)
def stride_of_a_side_of_one(path):
    torch_file(path, MINIMAL + tensor(shape(1, 16), shape(2**40, 1)) + b"s.")


@hostile(None)
def tensor_that_repeats_one_value(path):
    torch_file(path, MINIMAL + tensor(shape(1000, 4), shape(0, 1)) + b"s.")


@hostile("names")
def table_of_300_000_names(path):
    value = tensor(shape(16), shape(1))
    names = b"".join(b"X\x06\x00\x00\x00%06dh\x00" % i for i in range(300_000))
    torch_file(path, b"\x80\x02" + value + b"q\x000}(" + names + b"u.")


@hostile("members")
def zip_of_210_000_members(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"N.")
        for number in range(210_000):
            archive.writestr(f"a/data/{number}", b"")


@hostile("is compressed or encrypted")
def zip_bomb(path):
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a/data.pkl", "w", force_zip64=True) as member,
    ):
        for _ in range(1000):
            member.write(b"\0" * (1 << 20))


LEGACY = [119547037146038801333356, 1001]  # as torch wrote before 1.6: a number, and a version


@hostile("")
def legacy_file_with_a_storage_of_2_to_the_60_elements(path):
    key, count = b"X\x01\x00\x00\x000", pickle.dumps(2**60, 2)[2:-1]
    content = b"}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
    content += b"ctorch\nFloatStorage\n" + key + b"X\x03\x00\x00\x00cpu" + count + b"NtQK\x00"
    content += shape(2**59) + shape(1) + b"\x89}tRs."
    parts = [pickle.dumps(one, 2) for one in (*LEGACY, {"little_endian": True})]
    listed = pickle.dumps(["0"], 2) + struct.pack("<q", 2**60)
    path.write_bytes(b"".join(parts) + b"\x80\x02" + content + listed)


def huge_member(path: Path, names: list[str], size: int) -> None:
    """A zip archive whose last member has `size` bytes, all but the first a hole in the file."""
    with path.open("wb") as file:
        directory, at = b"", 0
        for name in names:
            length = size if name == names[-1] else 2
            file.seek(at)
            fields = struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, 0, length, length, len(name), 0)
            file.write(b"PK\x03\x04" + fields + name.encode())
            file.write(b"N.")
            directory += (
                b"PK\x01\x02"
                + struct.pack("<H", 20)
                + fields
                + struct.pack("<HHHII", 0, 0, 0, 0, at)
                + name.encode()
            )
            at += 30 + len(name) + length
        file.seek(at)
        file.write(directory)
        end = struct.pack("<HHHHIIH", 0, 0, len(names), len(names), len(directory), at, 0)
        file.write(b"PK\x05\x06" + end)


@hostile("of a NoneType")
def zip_member_of_3_gb(path):
    huge_member(path, ["a/data.pkl"], HUGE)


@hostile("of a NoneType")
def byte_order_of_3_gb(path):
    huge_member(path, ["a/data.pkl", "a/byteorder"], HUGE)


@hostile("the zip archive's directory has")
def zip_directory_of_2_gb(path):
    sparse(path, b"PK\x03\x04", HUGE)
    with path.open("ab") as file:
        file.write(b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 9, 9, 2 << 30, 1 << 29, 0))


@hostile("cannot be read")
def zip_without_a_directory(path):
    sparse(path, b"PK\x03\x04", 1000)


# Safetensors
def safetensors(path: Path, header: object, data: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def entry(shape: list, begin: int = 0, end: int = 4, dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@hostile("nested")
def safetensors_header_nested_100_000_deep(path):
    safetensors(path, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")


@hostile("nested")
def safetensors_header_nested_500_deep(path):
    safetensors(path, b'{"a":' + b"[" * 500 + b"]" * 500 + b"}")


@hostile("400 digits")
def safetensors_side_of_400_digits(path):
    side = b"9" * 400
    safetensors(
        path, b'{"a":{"dtype":"F32","shape":[' + side + b'],"data_offsets":[0,4]}}', b"0" * 4
    )


@hostile("names")
def safetensors_header_of_300_000_names(path):
    safetensors(path, {f"n{i}": 0 for i in range(300_000)})


@hostile("70 axes")
def safetensors_tensor_of_70_axes(path):
    safetensors(path, {"a": entry([1] * 70)}, b"0" * 4)


@hostile("overflow")
def safetensors_tensor_whose_sides_overflow(path):
    safetensors(path, {"a": entry([2**40, 2**40, 0], 0, 0)})


@hostile("a name has")
def safetensors_name_of_a_megabyte(path):
    safetensors(path, {"n" * (1 << 20): entry([1])}, b"0" * 4)


@hostile("surrogates not allowed")
def safetensors_name_of_half_a_letter(path):
    safetensors(path, b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"0" * 4)


@hostile("as ['F32']")
def safetensors_type_that_is_a_list(path):
    safetensors(path, {"a": entry([1], dtype=["F32"])}, b"0" * 4)


@hostile("cannot be read as JSON")
def safetensors_header_of_broken_utf8(path):
    safetensors(path, b'{"\xff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"0" * 4)


def of_length(path: Path, length: int) -> None:
    text = json.dumps({"w": entry([1])}).encode()
    path.write_bytes(struct.pack("<Q", length) + text + b" " * (length - len(text)) + b"0" * 4)


@hostile(None)
def safetensors_whose_length_begins_as_a_web_page(path):
    of_length(path, 316)  # its first byte is "<"


@hostile(None)
def safetensors_whose_length_begins_as_a_zip(path):
    of_length(path, 19280)  # its first bytes are "PK"


@hostile(None)
def safetensors_whose_length_begins_as_a_zip_and_is_longer(path):
    of_length(path, 84816)


# Folders
@hostile("nested")
def library_config_nested_100_000_deep(path):
    path.mkdir()
    (path / "config.json").write_text("[" * 100_000 + "]" * 100_000)


@hostile("model of type")
def library_config_with_a_kind_of_a_megabyte(path):
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "m" * (1 << 20)}))


@hostile("names files outside its folder")
def index_that_leaves_its_folder(path):
    path.mkdir()
    index = {"weight_map": {"a": "/etc/passwd"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


@hostile("does not name files")
def index_of_lists(path):
    path.mkdir()
    index = {"weight_map": {"a": ["x"]}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


@hostile("names no file of its folder")
def last_checkpoint_that_leaves_its_folder(path):
    path.mkdir()
    (path / "last_checkpoint").write_text("../../etc/passwd")
