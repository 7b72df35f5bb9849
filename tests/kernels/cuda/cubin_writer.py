"""Writes small cubins, fatbins, objects and archives for the tests of scripts/cubin_reader.py and
scripts/cuda_budget. The layout is what nvcc 13.0 writes; the instruction words are of its code."""

import struct

# (low, high) 64 bits as nvdisasm -hex prints them.
LDG_128 = (0x00000038020C7981, 0x0000E2000C1E1D00)  # LDG.E.128 R12, desc[UR56][R2.64]
LDG_64 = (0x0000080610147981, 0x000EA8000C1E1B00)  # LDG.E.64 R20, [R16.64+0x8]
LDG_S8 = (0x0000000C0C197981, 0x000728000C1E1300)  # LDG.E.S8 R25, desc[UR12][R12.64]
LDG_256 = (0xFE0000040208797E, 0x001EAA000812190C)  # LDG.E.ENL2.256 R12, R8, desc[UR4][R2.64]
STG_128 = (0x0000001402007986, 0x002FE8000C101D38)  # STG.E.128 desc[UR56][R2.64], R20
STG_U16 = (0x0000000316007986, 0x0003E2000C101538)  # STG.E.U16 desc[UR56][R22.64], R3
LDGSTS_128 = (0x0000000002177FAE, 0x000FE8000B901C78)  # LDGSTS.E.BYPASS.128, sm_90a
LDGSTS_32 = (0x0000000002077FAE, 0x004FE8000B921844)  # LDGSTS.E, sm_90a
LDGSTS_128_SM100 = (0x0000000002077FAE, 0x000FE8000B981806)  # LDGSTS.E.BYPASS.128, sm_100
LDGSTS_64_SM100 = (0x0000000002077FAE, 0x000FE8000B9A1406)  # LDGSTS.E.64, sm_100
LDSM = (0x000000000004783B, 0x0100760000004200)  # LDSM.16.MT88.4 R4, [R0]
HMMA = (0x000000120808723C, 0x008FE20000041804)  # HMMA.16816.F32.BF16 R8, R8, R18, R4
LDL_64 = (0x0000000010047983, 0x0000A20000100A00)  # LDL.64 R4, [R16]
STL_128 = (0x0000000401007387, 0x0041E80000100C00)  # STL.128 [R1], R4
STL_U16 = (0x0001100BFF007987, 0x0003E20008100434)  # STL.U16 [UR52+0x110], R11
NOP = (0x0000000000007918, 0x000FC00000000000)
EXIT = (0x000000000000794D, 0x000FEA0003800000)
SELF_SM90 = (0xFFFFFFFC00FC7947, 0x000FC0000383FFFF)  # BRA to itself, behind the code
BAR = (0x0000000000007B1D, 0x000FEC0000010000)  # BAR.SYNC


def bra(distance, architecture, predicate=0):
    """BRA to `distance` instructions from the next one; predicate 7 is always."""
    offset = distance * 16 // 4
    word = 0x947 | predicate << 12 | 0x0003800000 << 64 | 0x000FEA << 104
    if architecture >= 90:
        word |= (offset & 0xFF) << 16
        offset >>= 8
    word |= (offset & (1 << 48) - 1) << 34
    return word & (1 << 64) - 1, word >> 64


def attribute(number, *values):
    data = struct.pack(f"<{len(values)}I", *values)
    return struct.pack("<BBH", 4, number, len(data)) + data


def make_elf(machine, sections, flags=0, symbols=(), abi=8):
    """sections: (name, type, data), where data of NOBITS is a size; symbols: (name, st_other)."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name, _ in symbols)
    at, table = 1, struct.pack("<IBBHQQ", 0, 0, 0, 0, 0, 0)
    for name, other in symbols:
        table += struct.pack("<IBBHQQ", at, 0x12, other, 1, 0, 0)
        at += len(name) + 1
    sections = [("", 0, b""), *sections, (".symtab", 2, table), (".strtab", 3, strings)]
    sections.append((".shstrtab", 3, b""))
    names = b"".join(name.encode() + b"\0" for name, _, _ in sections)
    sections[-1] = (".shstrtab", 3, names)
    body, headers, name_at = b"", b"", 0
    for name, kind, data in sections:
        size = data if kind == 8 else len(data)
        headers += struct.pack(
            "<IIQQQQIIQQ", name_at, kind, 0, 0, 64 + len(body), size, 0, 0, 1, 0
        )
        name_at += len(name) + 1
        body += b"" if kind == 8 else data
    head = b"\x7fELF\x02\x01\x01\x33" + bytes([abi]) + bytes(7)
    head += struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 0, 64 + len(body), flags, 64, 0, 0, 64,
                        len(sections), len(sections) - 1)  # fmt: skip
    return head + body + headers


def make_cubin(kernels, architecture="sm_90a", toolkit="13.0.88"):
    """kernels: dicts of symbol, words and, where not 0, registers, stack, shared, barriers."""
    number = int(architecture[3:].rstrip("a"))
    # Symbol 1 is a function that is no kernel.
    symbols = [("helper", 0)] + [(kernel["symbol"], 0x10) for kernel in kernels]
    sections, info = [(".text.helper", 1, struct.pack("<QQ", *EXIT))], b""
    for index, kernel in enumerate(kernels, start=2):
        name = kernel["symbol"]
        info += attribute(0x2F, index, kernel.get("registers", 16))
        info += attribute(0x11, index, kernel.get("frame", 0))
        info += attribute(0x12, index, kernel.get("stack", 0))
        words = [*kernel.get("words", []), EXIT, *([SELF_SM90] if number >= 90 else []), NOP, NOP]
        code = b"".join(struct.pack("<QQ", *word) for word in words)
        own = attribute(0x37, 0x82) + struct.pack("<BBH", 3, 0x1B, 0xFF)
        own += struct.pack("<BBBB", 2, 0x4C, kernel.get("barriers", 0), 0)
        sections += [(".text." + name, 1, code), (".nv.info." + name, 0x70000000, own)]
        reserved = 1024 if number >= 90 else 0
        if "shared" in kernel:
            sections.append((".nv.shared." + name, 8, kernel["shared"] + reserved))
    sections.append((".nv.info", 0x70000000, info))
    if toolkit is not None:
        note = f"ptxas\0Cuda compilation tools, release 13.0, V{toolkit}\0"
        note += f"-arch {architecture} -m 64 \0"
        sections.append((".note.nv.tkinfo", 7, note.encode()))
    return make_elf(190, sections, 0x6000000 | number << 8 | 4, symbols)


def make_fatbin(cubins, flags=0x11):
    entries = b"".join(
        struct.pack("<HHIQQIIIIQ", 2, 0x101, 64, len(cubin), 0, 0, 0, 0x10008, 80, flags)
        + bytes(16)
        + cubin
        for cubin in cubins
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries


def make_object(*fatbins):
    return make_elf(62, [(".text", 1, b"\x90"), (".nv_fatbin", 1, b"".join(fatbins))], abi=0)


def make_archive(*members):
    text = b"!<arch>\n"
    for data in (b"symbols", *members):
        text += b"member/".ljust(16) + b"0".ljust(32) + str(len(data)).encode().ljust(10) + b"`\n"
        text += data + b"\n" * (len(data) % 2)
    return text
