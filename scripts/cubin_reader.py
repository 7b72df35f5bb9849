"""What machine code says about CUDA kernels: read straight from objects, archives or cubins, with
no tool of the CUDA toolkit and no compilation. Used by scripts/cuda_budget.

Formats: ar (common), ELF (gABI), the fatbin container and the .nv.info attributes as `cuobjdump
-elf` shows them, and the 128-bit instruction words of sm_70 and later as nvdisasm prints them.
The opcodes below mean the same on sm_80, sm_90a and sm_100; cuda_budget compares the counts with
nvdisasm's wherever it finds one."""

import dataclasses
import re
import struct
import subprocess

FATBIN_MAGIC = 0xBA55ED50
FATBIN_KIND_ELF = 2
FATBIN_COMPRESSED = 0x2000 | 0x8000  # LZ4, Zstandard
ELF_MAGIC = b"\x7fELF"
EM_CUDA = 190
SHT_NOBITS = 8
STO_CUDA_ENTRY = 0x10  # in a symbol's st_other: a kernel
# Attributes in .nv.info sections, of format SVAL but the last (BVAL).
EIATTR_FRAME_SIZE = 0x11
EIATTR_MIN_STACK_SIZE = 0x12
EIATTR_REGCOUNT = 0x2F
EIATTR_NUM_BARRIERS = 0x4C
EIFMT_SVAL = 4
RESERVED_SHARED_BYTES = 1024  # of each block, from sm_90 on in the section's size

# Instructions by the low 9 bits of their opcode; the 3 bits above tell the form of the operands.
OPCODES = {
    0x037: "IMMA", 0x03B: "LDSM", 0x03C: "HMMA", 0x03F: "DMMA", 0x07A: "QMMA",
    0x118: "NOP", 0x11D: "BAR", 0x147: "BRA", 0x14D: "EXIT", 0x150: "RET", 0x17E: "LDG.256",
    0x17F: "STG.256",
    0x181: "LDG", 0x183: "LDL", 0x186: "STG", 0x187: "STL", 0x1AE: "LDGSTS",
    0x1B4: "UTMALDG", 0x1B5: "UTMASTG", 0x1BA: "UBLKCP",
    0x1F0: "HGMMA", 0x1F1: "IGMMA", 0x1F3: "QGMMA",
}  # fmt: skip
TENSOR = ("HMMA", "IMMA", "QMMA", "DMMA", "HGMMA", "IGMMA", "QGMMA")
# ".narrow" is what moves less than 16 bytes a thread.
COUNTED = TENSOR + (
    "LDG.256", "LDG.128", "LDG.narrow", "LDGSTS.128", "LDGSTS.narrow", "UTMALDG", "UTMASTG",
    "UBLKCP", "LDSM", "STG.256", "STG.128", "STG.narrow", "BAR", "LDL", "STL",
)  # fmt: skip


class FormatError(Exception):
    """A file that cannot be read; the message names what is wrong with it."""


@dataclasses.dataclass
class Kernel:
    symbol: str  # mangled
    architecture: str  # "sm_90a"
    toolkit: str  # "13.0.88", or "unknown"
    registers: int = 0
    stack_bytes: int = 0  # of a thread, with the functions that it calls
    shared_bytes: int = 0  # static
    barriers: int = 0
    local_store_bytes: int = 0  # over all STL: spills and arrays that found no registers
    local_load_bytes: int = 0
    instructions: int = 0
    loop: int = 0  # instructions of the main innermost loop, see main_innermost_loop
    sass: dict = dataclasses.field(default_factory=dict)  # count of each of COUNTED that occurs


# ---------------------------------------------------------------------------------- containers ---


def cubins_of(data):
    """The cubins inside an archive, a host object or a cubin."""
    if data.startswith(b"!<arch>\n"):
        for member in archive_members(data):
            if member.startswith(ELF_MAGIC):
                yield from cubins_of(member)
        return
    elf = Elf(data)
    if elf.machine == EM_CUDA:
        yield data
        return
    for section in elf.sections:
        if section.name in (".nv_fatbin", "__nv_relfatbin"):
            yield from fatbin_cubins(elf.bytes_of(section))


def archive_members(data):
    at = 8
    while at + 60 <= len(data):
        header = data[at : at + 60]
        if header[58:60] != b"`\n":
            raise FormatError(f"byte {at}: no archive member starts here")
        size = int(header[48:58])
        yield data[at + 60 : at + 60 + size]
        at += 60 + size + size % 2


def fatbin_cubins(data):
    at = 0
    while at + 16 <= len(data):
        magic, _, header, size = struct.unpack_from("<IHHQ", data, at)
        if magic != FATBIN_MAGIC:
            at += 8  # padding between containers
            continue
        entry, end = at + header, at + header + size
        if end > len(data):
            raise FormatError("the fatbin section ends inside a container")
        while entry + 64 <= end:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", data, entry)
            (flags,) = struct.unpack_from("<Q", data, entry + 40)
            if kind == FATBIN_KIND_ELF:
                code = data[entry + entry_header : entry + entry_header + entry_size]
                if flags & FATBIN_COMPRESSED or not code.startswith(ELF_MAGIC):
                    raise FormatError("machine code is compressed: build with --compress-mode=none")
                yield code
            entry += entry_header + entry_size
        at = end


@dataclasses.dataclass
class Section:
    name: str
    type: int
    offset: int
    size: int


class Elf:
    """Sections and symbols of a 64-bit little-endian ELF file."""

    def __init__(self, data):
        if not data.startswith(ELF_MAGIC) or len(data) < 64 or data[4:6] != b"\x02\x01":
            raise FormatError("is neither an archive nor a 64-bit ELF file")
        self.data = data
        self.machine = struct.unpack_from("<H", data, 18)[0]
        self.flags = struct.unpack_from("<I", data, 48)[0]
        (table,) = struct.unpack_from("<Q", data, 40)
        count, names = struct.unpack_from("<HH", data, 60)
        if table + 64 * count > len(data) or names >= max(count, 1):
            raise FormatError("the section table lies outside of the file")
        headers = [struct.unpack_from("<IIQQQQ", data, table + 64 * i) for i in range(count)]
        self.sections = []
        for name, kind, _, _, offset, size in headers:
            if kind != SHT_NOBITS and offset + size > len(data):
                raise FormatError("a section lies outside of the file")
            self.sections.append(
                Section(self._text(headers[names][4] + name), kind, offset, size)
            )

    def _text(self, at):
        return self.data[at : self.data.index(b"\0", at)].decode()

    def bytes_of(self, section):
        return self.data[section.offset : section.offset + section.size]

    def find(self, name):
        return next((s for s in self.sections if s.name == name), None)

    def symbols(self):
        """Name and st_other, in the order of their indices."""
        table, names = self.find(".symtab"), self.find(".strtab")
        if table is None or names is None:
            return
        for at in range(table.offset, table.offset + table.size, 24):
            name, _, other = struct.unpack_from("<IBB", self.data, at)
            yield self._text(names.offset + name), other


# ------------------------------------------------------------------------------------- kernels ---


def read_kernels(data):
    """The kernels in an archive, an object or a cubin, one for each architecture."""
    try:
        return [kernel for cubin in cubins_of(data) for kernel in kernels_of_cubin(cubin)]
    except (struct.error, ValueError, IndexError) as error:
        raise FormatError(f"is damaged: {error}") from error


def kernels_of_cubin(data):
    elf = Elf(data)
    architecture, toolkit = origin_of(elf)
    symbols = list(elf.symbols())
    per_symbol = {}  # attribute -> symbol name -> value
    info = elf.find(".nv.info")
    for attribute, value in attributes_of(elf.bytes_of(info)) if info else ():
        if len(value) == 8:
            index, number = struct.unpack("<II", value)
            per_symbol.setdefault(attribute, {})[symbols[index][0]] = number
    for name, other in symbols:
        code = elf.find(".text." + name)
        if code is None or not other & STO_CUDA_ENTRY:
            continue
        kernel = Kernel(name, architecture, toolkit)
        kernel.registers = per_symbol.get(EIATTR_REGCOUNT, {}).get(name, 0)
        kernel.stack_bytes = max(
            per_symbol.get(a, {}).get(name, 0) for a in (EIATTR_FRAME_SIZE, EIATTR_MIN_STACK_SIZE)
        )
        own_info = elf.find(".nv.info." + name)
        for attribute, value in attributes_of(elf.bytes_of(own_info)) if own_info else ():
            if attribute == EIATTR_NUM_BARRIERS:
                kernel.barriers = value[0]
        shared = elf.find(".nv.shared." + name)
        if shared is not None:
            reserved = RESERVED_SHARED_BYTES if number_of(architecture) >= 90 else 0
            kernel.shared_bytes = max(shared.size - reserved, 0)
        count_instructions(kernel, elf.bytes_of(code))
        yield kernel


def number_of(architecture):
    return int(re.match(r"sm_(\d+)", architecture)[1])


def origin_of(elf):
    """Architecture and version of ptxas, from its note; else what the header's flags tell."""
    note = elf.find(".note.nv.tkinfo")
    text = elf.bytes_of(note).decode("latin-1") if note else ""
    version = re.search(r"release [\d.]+, V([\d.]+)", text)
    architecture = re.search(r"-arch[= ](sm_\d+[a-z]?)", text)
    number = (elf.flags >> 8 & 0xFF) if elf.data[8] >= 8 else (elf.flags & 0xFF)
    return (
        architecture[1] if architecture else f"sm_{number}",
        version[1] if version else "unknown",
    )


def attributes_of(data):
    """Attribute number and value bytes of a .nv.info section."""
    at = 0
    while at + 4 <= len(data):
        form, attribute, size = struct.unpack_from("<BBH", data, at)
        length = size if form == EIFMT_SVAL else 0
        yield attribute, data[at + 4 : at + 4 + length] if length else data[at + 2 : at + 4]
        at += 4 + length


# ---------------------------------------------------------------------------------------- SASS ---


def count_instructions(kernel, code):
    number = number_of(kernel.architecture)
    words = [int.from_bytes(code[at : at + 16], "little") for at in range(0, len(code), 16)]
    # Behind the code: a branch to itself, then NOPs up to the section's alignment.
    while words and OPCODES.get(words[-1] & 0x1FF) == "NOP":
        words.pop()
    if words and OPCODES.get(words[-1] & 0x1FF) == "BRA":
        if branch_target(words[-1], len(words) - 1, number) == len(words) - 1:
            words.pop()
    kernel.instructions = len(words)
    branches, ends, products = [], [], []
    for index, word in enumerate(words):
        name = OPCODES.get(word & 0x1FF)
        if name in ("EXIT", "RET") and word >> 12 & 15 == 7:  # for all threads
            ends.append(index)
        elif name == "BRA":
            branches.append((index, branch_target(word, index, number)))
        elif name in TENSOR:
            products.append(index)
        elif name == "LDL":
            kernel.local_load_bytes += access_bytes(word, name, number)
        elif name == "STL":
            kernel.local_store_bytes += access_bytes(word, name, number)
        elif name in ("LDG", "STG", "LDGSTS"):
            name += ".128" if access_bytes(word, name, number) == 16 else ".narrow"
        if name in COUNTED:
            kernel.sass[name] = kernel.sass.get(name, 0) + 1
    kernel.sass = {name: kernel.sass[name] for name in COUNTED if name in kernel.sass}
    kernel.loop = main_innermost_loop(branches, ends, products)


def access_bytes(word, name, number):
    """What a load or store moves for a thread."""
    if name == "LDGSTS" and number >= 100:
        return (4, 8, 16, 16)[word >> 74 & 3]
    return (1, 1, 2, 2, 4, 8, 16, 16)[word >> 73 & 7]  # U8 S8 U16 S16 32 64 128


def branch_target(word, index, number):
    """Index of the instruction where a BRA goes. The offset counts from the next instruction."""
    offset = word >> 34 & (1 << 48) - 1
    offset -= (offset >> 47) << 48
    if number >= 90:  # 8 more bits, far from the others
        offset = offset << 8 | word >> 16 & 0xFF
    return index + 1 + offset * 4 // 16


def main_innermost_loop(branches, ends, products):
    """Instructions of the loop with no loop in it that has most tensor products, or else is the
    longest; 0 if there is none. A loop is told by a branch backwards; one over an end of the
    program comes from cold code behind it, and is none."""
    spans = [
        (target, index)
        for index, target in branches
        if 0 <= target < index and not any(target <= end <= index for end in ends)
    ]
    innermost = [
        (sum(first <= product <= last for product in products), last - first + 1)
        for first, last in spans
        if not any(first <= f and l <= last and (f, l) != (first, last) for f, l in spans)
    ]
    return max(innermost, default=(0, 0))[1]


def counts_of_disassembly(text):
    """The counts of Kernel.sass by symbol, from what nvdisasm prints of a cubin."""
    counts, current = {}, {}
    for line in text.splitlines():
        if line.startswith(".text."):
            current = counts.setdefault(line[len(".text.") :].rstrip(":"), {})
            continue
        match = INSTRUCTION.match(line)
        if match is None:
            continue
        name, *modifiers = match[1].split(".")
        if name in ("LDG", "STG", "LDGSTS"):
            width = [m for m in modifiers if m in ("128", "256")]
            name += "." + (width[0] if width else "narrow")
        if name in COUNTED:
            current[name] = current.get(name, 0) + 1
    return counts


INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")


# --------------------------------------------------------------------------------------- names ---


def demangle(symbols):
    """Readable names by symbol, through binutils' c++filt."""
    symbols = sorted(set(symbols))
    text = "".join(symbol + "\n" for symbol in symbols)
    try:
        result = subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise FormatError(f"c++filt (of binutils) fails: {error}") from error
    names = dict(zip(symbols, result.stdout.splitlines()))
    short = {symbol: shorten(name) for symbol, name in names.items()}
    shared = {name for name in short.values() if list(short.values()).count(name) > 1}
    return {s: shorten(names[s], True) if n in shared else n for s, n in short.items()}


def shorten(name, parameters=False):
    """Without return type, our namespaces and, unless asked for, the list of parameters."""
    name = re.sub(r"\(anonymous namespace\)::|_INTERNAL_\w+::", "", name)
    name = re.sub(r"phalanx::kernels::(cuda::)?", "", name.removeprefix("void "))
    if not parameters and name.endswith(")"):
        depth = 0
        for at in range(len(name) - 1, -1, -1):
            depth += {")": 1, "(": -1}.get(name[at], 0)
            if depth == 0:
                return name[:at]
    return name
