#!/usr/bin/env python3
"""scripts/cubin_reader.py: kernels out of containers, their attributes, instruction counts, loops
and names. Usage: cubin_reader_test.py SOURCE_DIR"""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(sys.argv.pop(1)).resolve() / "scripts"))

import cubin_reader as reader
import cubin_writer as writer
from cubin_writer import make_archive, make_cubin, make_elf, make_fatbin, make_object

ADD = "_ZN7phalanx7kernels4cuda12add_rms_normINS1_7AddNormEEEvT_"
DISASSEMBLY = """
//--------------------- .text._Z4miscPf  --------------------------
	.section	.text._Z4miscPf,"ax",@progbits
_Z4miscPf:
.text._Z4miscPf:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, desc[UR56][R4.64] ;
        /*0020*/             @!UP1 LDG.E.EF.64 R16, desc[UR56][R8.64] ;
        /*0030*/                   LDG.E.ENL2.256 R12, R8, desc[UR4][R2.64] ;
        /*0040*/                   LDGDEPBAR ;
        /*0050*/               @P1 LDGSTS.E.BYPASS.128 [R3], desc[UR6][R6.64] ;
.L_x_1:
        /*0060*/                   HMMA.16816.F32.BF16 R8, R8, R18, R4 ;
        /*0070*/                   STL.U16 [UR52+0x110], R11 ;
        /*0080*/               @P0 BRA `(.L_x_1) ;
.text._Z5otherPf:
        /*0000*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
"""


def kernel_of(words, architecture="sm_90a", **more):
    cubin = make_cubin([{"symbol": ADD, "words": words, **more}], architecture)
    (kernel,) = reader.read_kernels(cubin)
    return kernel


class Containers(unittest.TestCase):
    def setUp(self):
        self.cubins = [make_cubin([{"symbol": ADD}], a) for a in ("sm_80", "sm_90a", "sm_100")]

    def architectures(self, data):
        return [kernel.architecture for kernel in reader.read_kernels(data)]

    def test_every_container_gives_the_same_kernels(self):
        fatbin = make_fatbin(self.cubins)
        expected = ["sm_80", "sm_90a", "sm_100"]
        self.assertEqual(self.architectures(make_object(fatbin)), expected)
        self.assertEqual(self.architectures(make_archive(make_object(fatbin))), expected)
        self.assertEqual(self.architectures(self.cubins[1]), ["sm_90a"])

    def test_containers_follow_one_another_after_padding(self):
        data = make_object(make_fatbin(self.cubins[:1]), bytes(16), make_fatbin(self.cubins[1:]))
        self.assertEqual(len(self.architectures(data)), 3)
        odd = make_archive(make_object(make_fatbin(self.cubins)) + b"x", make_object())
        self.assertEqual(len(self.architectures(odd)), 3)

    def test_a_host_object_has_none(self):
        self.assertEqual(reader.read_kernels(make_elf(62, [(".text", 1, b"\x90")])), [])

    def test_compressed_code_is_refused(self):
        for flag in (0x2000, 0x8000):
            with self.assertRaisesRegex(reader.FormatError, "compressed"):
                reader.read_kernels(make_object(make_fatbin(self.cubins, flag)))

    def test_what_is_cut_off_is_an_error_wherever_the_cut_is(self):
        data = make_archive(make_object(make_fatbin(self.cubins)))
        for size in range(0, len(data), 97):
            try:
                self.assertEqual(reader.read_kernels(data[:size]), [], size)
            except reader.FormatError:
                pass

    def test_damaged_bytes_give_an_error_or_kernels(self):
        cubin = make_cubin([{"symbol": ADD, "words": [writer.LDG_128]}])
        for at in range(len(cubin)):
            try:
                reader.read_kernels(cubin[:at] + bytes([cubin[at] ^ 0xFF]) + cubin[at + 1 :])
            except reader.FormatError:
                pass


class Attributes(unittest.TestCase):
    def test_registers_stack_shared_and_barriers(self):
        figures = {"registers": 168, "frame": 16, "stack": 1392, "shared": 400, "barriers": 3}
        for architecture in ("sm_80", "sm_90a", "sm_100"):
            kernel = kernel_of([], architecture, **figures)
            self.assertEqual(kernel.symbol, ADD)
            self.assertEqual(kernel.architecture, architecture)
            self.assertEqual(kernel.toolkit, "13.0.88")
            self.assertEqual(kernel.registers, 168)
            self.assertEqual(kernel.stack_bytes, 1392)
            self.assertEqual(kernel.shared_bytes, 400)
            self.assertEqual(kernel.barriers, 3)
        self.assertEqual(kernel_of([], frame=96).stack_bytes, 96)
        self.assertEqual(kernel_of([]).shared_bytes, 0)

    def test_without_the_note_of_ptxas_the_header_tells_the_architecture(self):
        (kernel,) = reader.read_kernels(make_cubin([{"symbol": ADD}], "sm_80", None))
        self.assertEqual((kernel.architecture, kernel.toolkit), ("sm_80", "unknown"))

    def test_each_kernel_has_its_own(self):
        kernels = [{"symbol": f"k{i}", "registers": 10 + i} for i in range(5)]
        read = {k.symbol: k.registers for k in reader.read_kernels(make_cubin(kernels))}
        self.assertEqual(read, {f"k{i}": 10 + i for i in range(5)})


class Instructions(unittest.TestCase):
    def test_counts_by_class_and_width(self):
        w = writer
        words = [w.LDG_128, w.LDG_64, w.LDG_S8, w.STG_128, w.STG_U16, w.LDGSTS_128, w.LDGSTS_32]
        words += [w.LDSM, w.HMMA, w.HMMA, w.BAR, w.LDG_256]
        kernel = kernel_of(words)
        expected = {"HMMA": 2, "LDG.256": 1, "LDG.128": 1, "LDG.narrow": 2, "LDGSTS.128": 1}
        expected |= {"LDGSTS.narrow": 1, "LDSM": 1, "STG.128": 1, "STG.narrow": 1, "BAR": 1}
        self.assertEqual(kernel.sass, expected)
        self.assertEqual(kernel.instructions, len(words) + 1)  # EXIT, but not what follows it

    def test_asynchronous_copies_are_coded_otherwise_from_sm_100_on(self):
        kernel = kernel_of([writer.LDGSTS_128_SM100, writer.LDGSTS_64_SM100], "sm_100")
        self.assertEqual(kernel.sass, {"LDGSTS.128": 1, "LDGSTS.narrow": 1})

    def test_local_memory_in_bytes(self):
        kernel = kernel_of([writer.STL_128, writer.STL_U16, writer.LDL_64, writer.LDL_64])
        self.assertEqual((kernel.local_store_bytes, kernel.local_load_bytes), (18, 16))
        self.assertEqual(kernel.sass, {"LDL": 2, "STL": 2})

    def test_a_nop_inside_counts(self):
        self.assertEqual(kernel_of([writer.NOP, writer.HMMA]).instructions, 3)

    def test_words_of_branches_of_nvcc(self):
        for words, index, number, target in (
            ((0x0000078000008947, 0x000FEA0003800000), 0x34, 80, 0xAD),
            ((0x0000000400E08947, 0x000FEA0003800000), 0x36, 90, 0xAF),
            (writer.SELF_SM90, 0x46C, 90, 0x46C),
        ):
            word = words[0] | words[1] << 64
            self.assertEqual(reader.branch_target(word, index, number), target)

    def test_the_main_innermost_loop(self):
        for architecture in ("sm_80", "sm_90a", "sm_100"):
            number = reader.number_of(architecture)
            body = [writer.LDSM] * 400
            inner = [*body, writer.bra(-401, number)]
            short = [writer.LDSM, writer.bra(-2, number)]
            outer = [*short, *inner, writer.LDSM]
            outer.append(writer.bra(-len(outer) - 1, number))
            forward = [writer.bra(7, number)]
            self.assertEqual(kernel_of(outer, architecture).loop, 401)
            self.assertEqual(kernel_of(forward + body, architecture).loop, 0)
            products = [writer.HMMA, writer.LDSM, writer.bra(-3, number)]
            self.assertEqual(kernel_of(inner + products + short, architecture).loop, 3)
            # Cold code behind the end of the program jumps back.
            cold = [*body, writer.EXIT, writer.LDSM, writer.bra(-300, number, predicate=7)]
            self.assertEqual(kernel_of(cold, architecture).loop, 0)

    def test_counts_of_a_disassembly(self):
        counts = reader.counts_of_disassembly(DISASSEMBLY)
        misc = {"LDG.128": 1, "LDG.narrow": 1, "LDG.256": 1, "LDGSTS.128": 1, "HMMA": 1, "STL": 1}
        self.assertEqual(counts, {"_Z4miscPf": misc, "_Z5otherPf": {"BAR": 1}})


class Names(unittest.TestCase):
    def test_short_names(self):
        for long, short in (
            ("void phalanx::kernels::cuda::gather<phalanx::kernels::cuda::Gather>"
             "(phalanx::kernels::cuda::Gather)", "gather<Gather>"),
            ("void phalanx::kernels::cuda::write_kv<(phalanx::kernels::KvFormat)2>(int, (x)1)",
             "write_kv<(KvFormat)2>"),
            ("phalanx::kernels::cuda::(anonymous namespace)::plain(float*)", "plain"),
            ("void a::_INTERNAL_3f_9_file_cu_8a::k<3, true>(void (*)(int))", "a::k<3, true>"),
            ("extern_c", "extern_c"),
        ):  # fmt: skip
            self.assertEqual(reader.shorten(long), short)

    def test_overloads_keep_their_parameters(self):
        names = reader.demangle([ADD, "_Z2ovPfi", "_Z2ovPff"])
        self.assertEqual(names[ADD], "add_rms_norm<AddNorm>")
        self.assertEqual(names["_Z2ovPfi"], "ov(float*, int)")
        self.assertEqual(names["_Z2ovPff"], "ov(float*, float)")


if __name__ == "__main__":
    unittest.main()
