"""Bugs that scripts/planted_bugs plants in the CUDA kernels, one at a time: `old`, which stands once
in `file`, becomes `new`, and one of the tests of `program` must fail. A test is "Suite.Name", or
"Suite.Name/parameter" of one parameter."""

BUGS = []


def bug(name, kind, file, old, new, program, *tests):
    BUGS.append({"name": name, "kind": kind, "file": "kernels/cuda/" + file, "old": old,
                 "new": new, "program": program, "tests": list(tests)})


# -------------------------------------------------------------------------- linear, few rows ---

bug("small_no_barrier_before_the_walk", "missing barrier", "linear_small_kernels.h",
    "    __syncthreads();  // the stage is there, and the last segment's values have been added\n",
    "",
    "cuda_kernels_test", "LinearKernels.SegmentsAndCutsDoNotChangeBits")
bug("small_no_barrier_before_scaling", "missing barrier", "linear_small_kernels.h",
    "    __syncthreads();  // the values are there, and the stage is free\n",
    "",
    "cuda_kernels_test", "LinearKernels.FewRowsGiveTheOraclesBits")
bug("small_second_stage_not_waited_for", "missing wait", "linear_small_kernels.h",
    "      cp_async_wait<1>();\n",
    "      cp_async_wait<2>();\n",
    "cuda_kernels_test", "LinearKernels.SegmentsAndCutsDoNotChangeBits")
bug("small_only_stage_not_waited_for", "missing wait", "linear_small_kernels.h",
    "    } else {\n      cp_async_wait<0>();\n    }\n",
    "    }\n",
    "cuda_kernels_test", "LinearKernels.FewRowsGiveTheOraclesBits")
bug("small_scale_of_the_next_group", "wrong scale index", "linear_small_kernels.h",
    "load_scale(w_scales_, dtype_, group * kTileOutputs)",
    "load_scale(w_scales_, dtype_, (group + 1) * kTileOutputs)",
    "cuda_kernels_test", "LinearKernels.FewRowsGiveTheOraclesBits")
bug("small_padded_row_written", "padded row written", "linear_small_kernels.h",
    "        if (token >= a_.x.num_rows) continue;\n",
    "",
    "cuda_kernels_test", "LinearKernels.FewRowsGiveTheOraclesBits")
bug("small_lane_sum_not_reset", "stale counter", "linear_small_kernels.h",
    "      lanes.add(lane_sum);\n      lane_sum = 0.0F;\n",
    "      lanes.add(lane_sum);\n",
    "cuda_kernels_test", "LinearKernels.FewRowsGiveTheOraclesBits")

# ------------------------------------------------------------------------- linear, many rows ---

bug("large_stage_not_waited_for", "missing wait", "linear_large_kernels.h",
    "      cp_async_wait<Tile::kStages - 2>();\n",
    "      cp_async_wait<Tile::kStages - 1>();\n",
    "cuda_kernels_test", "LinearKernels.ManyRowsGiveTheOraclesBits")
bug("large_no_barrier_before_a_stage", "missing barrier", "linear_large_kernels.h",
    "      __syncthreads();  // the stage is there, and the one before it is free\n",
    "",
    "cuda_kernels_test", "LinearKernels.ManyRowsGiveTheOraclesBits")
bug("large_swizzle_by_the_wrong_lane", "wrong lane", "linear_large_kernels.h",
    "(step ^ (group_lane_ % 4)) * kStepBytes);\n",
    "(step ^ (member_ % 4)) * kStepBytes);\n",
    "cuda_kernels_test", "LinearKernels.ManyRowsGiveTheOraclesBits")
bug("large_padded_row_written", "padded row written", "linear_large_kernels.h",
    "if (output >= a_.w.shape.num_rows || token >= a_.x.num_rows) continue;",
    "if (output >= a_.w.shape.num_rows || token >= a_.x.num_rows + 1) continue;",
    "cuda_kernels_test", "LinearKernels.ManyRowsGiveTheOraclesBits")
bug("large_lanes_added_one_after_another", "wrong merge order", "linear_large_kernels.h",
    "    for (; (lane >> level & 1) != 0; ++level) {\n",
    "    for (; level < lane; level = lane) {\n",
    "cuda_kernels_test", "LinearKernels.ManyRowsGiveTheOraclesBits")
bug("w4_steps_swapped", "wrong fragment order", "linear_formats.h",
    "const int shift = step == 0 ? 4 : 0;",
    "const int shift = step == 0 ? 0 : 4;",
    "cuda_kernels_test", "LinearKernels.FewRowsGiveTheOraclesBits")
bug("fp8_second_half_of_a_step_is_the_first", "wrong fragment order", "linear_formats.h",
    "product == 0 ? words.x : words.y",
    "words.x",
    "cuda_kernels_test", "LinearKernels.FewRowsGiveTheOraclesBits")
bug("ragged_step_not_padded", "lost tail", "linear_formats.h",
    "byte < cols * kCodeBytes ? bytes[byte] : uint8_t{0}",
    "byte < (cols & ~1) * kCodeBytes ? bytes[byte] : uint8_t{0}",
    "cuda_kernels_test", "LinearKernels.FewRowsGiveTheOraclesBits")

# ----------------------------------------------------------------------------- gated linear ---

bug("gated_arrivals_not_reset", "stale counter", "linear_gated.h",
    "        if (before + 1 == expected) *count = 0;  // for the next launch\n",
    "",
    "cuda_kernels_test", "GatedLinearKernels.GiveTheBitsOfTheThreeParts")
bug("gated_flag_not_waited_for", "missing barrier", "linear_gated.h",
    "      __syncthreads();\n      complete = *flag == expected;\n",
    "      complete = *flag == expected;\n",
    "cuda_kernels_test", "GatedLinearKernels.GiveTheBitsOfTheThreeParts")
bug("gated_group_complete_too_early", "off by one group", "linear_gated.h",
    "static_cast<uint32_t>(last_block - begin / part.block_cols + 1)",
    "static_cast<uint32_t>(last_block - begin / part.block_cols)",
    "cuda_kernels_test", "GatedLinearKernels.GiveTheBitsOfTheThreeParts")

# -------------------------------------------------------------------------------------- rows ---

bug("norm_mask_of_half_the_lanes", "wrong mask", "row_kernels.h",
    "constexpr uint32_t kLanes = (1U << kNormLanes) - 1U;",
    "constexpr uint32_t kLanes = (1U << (kNormLanes / 2)) - 1U;",
    "cuda_kernels_test", "RowKernels.AddRmsNormGivesTheOraclesBits")
bug("norm_factor_not_waited_for", "missing barrier", "row_kernels.h",
    "  __syncthreads();\n  const float inverse = values[num_cols];\n",
    "  const float inverse = values[num_cols];\n",
    "cuda_kernels_test", "RowKernels.AddRmsNormGivesTheOraclesBits")
bug("norm_without_its_last_columns", "lost tail", "row_kernels.h",
    "for (int64_t k = thread; k < num_cols; k += kNormLanes) {",
    "for (int64_t k = thread; k < num_cols / 32 * 32; k += kNormLanes) {",
    "cuda_kernels_test", "RowKernels.AddRmsNormGivesTheOraclesBits")
bug("s8_group_swallows_nan", "NaN swallowed", "row_kernels.h",
    "    largest = __uint_as_float(a > b ? a : b);\n",
    "    largest = __uint_as_float(a) < __uint_as_float(b) ? __uint_as_float(b) : largest;\n",
    "cuda_kernels_test", "RowKernelsByGroups.ConvertTakesWhatIsTinyHugeAndNoNumberAsTheOracleDoes")
bug("e4m3_zeros_of_a_tiny_group_signed", "wrong sign", "row_kernels.h",
    "codes[k] = step == 0.0F ? uint8_t{0} : code;",
    "codes[k] = code;",
    "cuda_kernels_test",
    "RowKernelsByGroups.ConvertTakesWhatIsTinyHugeAndNoNumberAsTheOracleDoes")
bug("parts_added_one_after_another", "wrong merge order", "row_kernels.h",
    "if (i + distance < delta.num_parts) sums[i] = sums[i] + sums[i + distance];",
    "if (i + distance < delta.num_parts && distance == 1) {\n"
    "        sums[0] = i == 0 ? sums[0] + sums[1] : sums[0] + sums[i] + sums[i + 1];\n"
    "      }",
    "cuda_kernels_test", "RowKernels.AddRmsNormGivesTheOraclesBits")

# --------------------------------------------------------------------------------- attention ---

bug("attention_stage_not_waited_for", "missing wait", "attention_kernels.h",
    "    cp_async_wait<Tile::kStages - 2>();\n",
    "    cp_async_wait<Tile::kStages - 1>();\n",
    "cuda_attention_test", "CudaAttention.EveryContextAroundBlocksAndPartitions")
bug("attention_no_barrier_before_a_stage", "missing barrier", "attention_kernels.h",
    "    __syncthreads();\n    loader.issue();\n",
    "    loader.issue();\n",
    "cuda_attention_test", "CudaAttention.CompanyDoesNotMatterNorTheOrderOfThreads")
bug("attention_no_barrier_after_scores", "missing barrier", "attention_kernels.h",
    "    __syncthreads();\n    {\n      PartialRecord record{};\n",
    "    {\n      PartialRecord record{};\n",
    "cuda_attention_test", "CudaAttention.CompanyDoesNotMatterNorTheOrderOfThreads")
bug("attention_arrivals_not_reset", "stale counter", "attention_kernels.h",
    "    if (is_last) *arrivals = 0;\n",
    "",
    "cuda_attention_test", "CudaAttention.CutContextsInEveryThreadOrder")
bug("attention_merged_by_the_first_piece", "missing wait", "attention_kernels.h",
    "== static_cast<uint32_t>(piece.num_pieces) - 1;",
    "== 0U;",
    "cuda_attention_test", "CudaAttention.HowAContextIsCutDoesNotMatter")
bug("attention_merge_forgets_the_chunk_before", "wrong merge order", "attention_kernels.h",
    "      if (lane == 0) before = maximum_before;\n",
    "",
    "cuda_attention_test", "CudaAttention.ManyPartialResults")
bug("attention_next_block_looked_up", "off by one page", "attention_kernels.h",
    "ids[page] = seen ? block_table[token / kTokensOfBlock] : -1;",
    "ids[page] = seen ? block_table[token / kTokensOfBlock + 1] : -1;",
    "cuda_attention_test", "CudaAttention.EveryContextAroundBlocksAndPartitions")
bug("attention_last_page_left_out", "off by one page", "attention_kernels.h",
    "const bool seen = next < num_stages && token < end &&",
    "const bool seen = next < num_stages && token + 1 < end &&",
    "cuda_attention_test", "CudaAttention.EveryContextAroundBlocksAndPartitions")
bug("int8_scales_of_the_first_half", "wrong scale index", "attention_kernels.h",
    "token % kTokensOfPartition + i % kPieces * 4;",
    "token % kStageTokens + i % kPieces * 4;",
    "cuda_attention_test", "CudaAttention.EveryContextAroundBlocksAndPartitions/int8")
bug("bf16_unseen_values_not_zeroed", "NaN let in", "attention_kernels.h",
    "is_there && t >= oldest && t < end);",
    "is_there);",
    "cuda_attention_test", "CudaAttention.WhatUnwrittenSlotsHoldDoesNotMatter/bf16")
bug("bf16_values_not_transposed", "wrong fragment order", "attention_bf16_body.h",
    "    ldmatrix_x4_trans(b,\n",
    "    ldmatrix_x4(b,\n",
    "cuda_attention_test", "CudaAttention.EveryHeadDimOfTiles/bf16")
bug("bf16_row_multiplies_what_it_does_not_see", "NaN let in", "attention_bf16_body.h",
    "        if (!tokens.is_seen_from(token + 1, position)) b[j] &= 0x0000ffffU;\n",
    "",
    "cuda_attention_test", "CudaAttention.WhatLaterTokensHoldDoesNotMatter/bf16")
bug("int8_digits_swapped", "wrong fragment order", "attention_int8_body.h",
    "        ldmatrix_x4(a_low[m], weights + weight_chunk(row, 8 + chunk));\n",
    "        ldmatrix_x4(a_low[m], weights + weight_chunk(row, 8 + (chunk ^ 1)));\n",
    "cuda_attention_test", "CudaAttention.EveryHeadDimOfTiles/int8")
bug("int8_unseen_scales_multiplied", "NaN let in", "attention_int8_body.h",
    "scaled[j] = weights[j] <= 0.0F ? 0.0F : weights[j] * value_scales[j * 16 + i];",
    "scaled[j] = weights[j] * value_scales[j * 16 + i];",
    "cuda_attention_test", "CudaAttention.WhatUnwrittenSlotsHoldDoesNotMatter/int8")
bug("int8_weights_swallow_nan", "NaN swallowed", "attention_int8_body.h",
    "      largest = max(largest, __float_as_uint(scaled[j]) & 0x7fffffffU);\n",
    "      if (scaled[j] == scaled[j]) largest = max(largest, __float_as_uint(scaled[j]));\n",
    "cuda_attention_test", "CudaAttention.WhatLaterTokensHoldDoesNotMatter/int8")
bug("causal_mask_off_by_one", "causal mask off by one", "attention_softmax.h",
    "min(position + 1 - base, kTokensOfPartition)",
    "min(position + 2 - base, kTokensOfPartition)",
    "cuda_attention_test", "CudaAttention.WhatLaterTokensHoldDoesNotMatter")
bug("window_one_token_longer", "sliding window edge", "kv_layout.h",
    "const int oldest = position - sliding_window + 1;",
    "const int oldest = position - sliding_window;",
    "cuda_attention_test", "CudaAttention.SlidingWindows")
bug("row_arrivals_not_reset", "stale counter", "attention_output.h",
    "    if (is_last[i] != 0) *arrivals = 0;\n",
    "",
    "cuda_attention_test", "CudaAttention.ResultsAreConvertedAsConvertRowsDoes")

# ----------------------------------------------------------------------- the plan, KV blocks ---

bug("plan_partial_results_overlap", "off by one group", "attention_plan_kernels.h",
    "      const int num_slots = length > quota ? length : 0;\n",
    "      const int num_slots = length > quota ? length - 1 : 0;\n",
    "cuda_attention_test", "CudaAttention.HowAContextIsCutDoesNotMatter")
bug("plan_keeps_pieces_of_the_step_before", "stale flag", "attention_plan_kernels.h",
    "    list.pieces[i] = AttentionPiece{};\n",
    "",
    "cuda_attention_test", "CudaAttention.CompanyDoesNotMatterNorTheOrderOfThreads")
bug("plan_counts_slots_of_the_try_before", "stale counter", "attention_plan_kernels.h",
    "    if (threadIdx.x == 0) total[1] = 0;\n",
    "",
    "cuda_attention_test", "CudaAttention.HowAContextIsCutDoesNotMatter/int8")
bug("kv_written_a_block_early", "off by one page", "kv_write_kernels.h",
    "sequence.block_table[position / kTokensOfBlock]",
    "sequence.block_table[(position + 1) / kTokensOfBlock]",
    "cuda_attention_test", "KvWrite.F32BlocksAreTheOracles")
bug("kv_row_of_no_sequence_written", "padded row written", "kv_write_kernels.h",
    "    if (s < 0) return;\n    sequence = a.sequences[s];\n",
    "    sequence = a.sequences[s < 0 ? 0 : s];\n",
    "cuda_attention_test", "KvWrite.F32BlocksAreTheOracles")
bug("kv_no_warp_barrier_before_the_norm", "missing barrier", "kv_write_kernels.h",
    "x[d] = from[d];\n  __syncwarp();\n",
    "x[d] = from[d];\n",
    "cuda_attention_test", "KvWrite.F32BlocksAreTheOracles")

# ---------------------------------------------------------------------------------- sampling ---

bug("range_without_its_first_token", "off by one", "sampling_selection.h",
    "if (key <= worst && rank >= first && rank <= last) visit(rank);",
    "if (key <= worst && rank > first && rank <= last) visit(rank);",
    "cuda_sampler_test", "DeviceSampler.DrawsAsTheCpuFromAllKindsOfRows",
    "DeviceSampler.DrawsAsTheCpuFromLargeFlatRows")
bug("scan_of_tallies_skips_a_lane", "wrong lane", "sampling_selection.h",
    "      if (lane >= step) {\n        through.count",
    "      if (lane > step) {\n        through.count",
    "cuda_sampler_test", "DeviceSampler.DrawsAsTheCpuFromAllKindsOfRows")
bug("sort_without_barriers_between_warps", "missing barrier", "sampling_selection.h",
    "if (distance > 32 || next > 32) {",
    "if (distance > 64 || next > 64) {",
    "cuda_sampler_test", "DeviceSampler.DrawsAsTheCpuInEveryOrderOfThreads",
    "DeviceSampler.DrawsAsTheCpuFromLargeFlatRows")
bug("weights_of_a_list_lose_the_tail", "lost tail", "sampling_selection.h",
    "const uint32_t each = (num_listed_ + kDrawThreads - 1) / kDrawThreads;",
    "const uint32_t each = num_listed_ < kDrawThreads ? 1 : num_listed_ / kDrawThreads;",
    "cuda_sampler_test", "DeviceSampler.DrawsAsTheCpuFromAllKindsOfRows",
    "DeviceSampler.DrawsAsTheCpuFromLargeFlatRows")
bug("sums_of_weights_without_carry", "wrong sum", "sampling_rows.h",
    "if (low_word != 0 && atomicAdd(&low[bin], low_word) > ~low_word) ++high_word;  // it wrapped",
    "if (low_word != 0) atomicAdd(&low[bin], low_word);",
    "cuda_sampler_test", "DeviceSampler.DrawsAsTheCpuFromAllKindsOfRows",
    "DeviceSampler.DrawsAsTheCpuFromLargeFlatRows")
bug("nan_is_a_token", "NaN let in", "sampling_rows.h",
    "return value >= -kLargestFloat ? descending_key(value) : kNoKey;",
    "return value < -kLargestFloat ? kNoKey : descending_key(value);",
    "cuda_sampler_test", "DeviceSampler.DrawsAsTheCpuFromAllKindsOfRows",
    "DeviceSampler.RowsThatGiveNoTokenAreReported")
bug("logits_beyond_the_vocabulary", "padded row read", "sampling_rows.h",
    "    if (first + 4 <= vocab_size) {\n",
    "    if (first < vocab_size) {\n",
    "cuda_sampler_test", "DeviceSampler.DrawsAsTheCpuFromTinyVocabularies",
    "DeviceSampler.DrawsAsTheCpuFromAllKindsOfRows")
bug("bins_of_the_step_before", "stale counter", "sampling_kernels.h",
    "    view.bin_units[row_index * kBins + i] = 0;\n",
    "",
    "cuda_sampler_test", "DeviceSampler.SequencesOfDrawsFollowTheCpus")
bug("slot_keeps_what_was_seen", "stale counter", "slot_kernels.h",
    "    a.seen[i] = 0;\n",
    "    a.seen[i] |= 0U;\n",
    "cuda_sampler_test", "DeviceSampler.SequencesOfDrawsFollowTheCpus")

# ------------------------------------------------------------------------------------- peers ---

bug("one_shot_epoch_not_advanced", "epoch not advanced", "all_reduce_kernels.h",
    "  count_meetings(a.peers, meeting);\n  for (auto row",
    "  for (auto row",
    "cuda_peers_test", "PeerGroupBits.RanksThatAreLateChangeNothing")
bug("two_shot_epoch_advanced_by_one", "epoch not advanced", "all_reduce_kernels.h",
    "  count_meetings(a.peers, meeting + 1);\n",
    "  count_meetings(a.peers, meeting);\n",
    "cuda_peers_test", "PeerGroupBits.RanksThatAreLateChangeNothing")
bug("two_shot_without_its_second_meeting", "missing wait", "all_reduce_kernels.h",
    "  if (!meet_peers(a.peers, meeting + 1)) return;\n",
    "",
    "cuda_peers_test", "PeerGroupBits.RanksThatAreLateChangeNothing")
bug("one_shot_row_overwritten", "missing barrier", "all_reduce_kernels.h",
    "      store_row(values, row, a.num_cols, a.out);\n      __syncthreads();\n",
    "      store_row(values, row, a.num_cols, a.out);\n",
    "cuda_peers_test", "PeerGroupBits.AddRmsNormGivesTheOraclesBits")
bug("two_shot_pushes_unfinished_rows", "missing barrier", "all_reduce_kernels.h",
    "    __syncthreads();  // the row is whole, and `values` free\n",
    "",
    "cuda_peers_test", "PeerGroupBits.AddRmsNormGivesTheOraclesBits")
bug("flag_not_waited_for", "missing wait", "peer_meeting.h",
    "    came = wait_for_peer(peers, other, meeting);\n",
    "    came = load_acquire_system(&control_of(peers, peers.rank)->flags[0][0]) + 1 > 0;\n",
    "cuda_peers_test", "PeerGroupBits.RanksThatAreLateChangeNothing")
bug("flag_of_a_rank_ahead_not_taken", "stale flag", "peer_meeting.h",
    "if (static_cast<int32_t>(flag - meeting) >= 0) return true;",
    "if (flag == meeting) return true;",
    "cuda_peers_test", "PeerGroupBits.RanksThatAreLateChangeNothing")
bug("flag_raised_before_the_block_is_done", "missing barrier", "peer_meeting.h",
    "  __syncthreads();  // the stores below release what all of the block's threads wrote\n",
    "",
    "cuda_peers_test", "PeerGroupBits.AddRmsNormGivesTheOraclesBits",
    "PeerGroupBits.RanksThatAreLateChangeNothing")
bug("part_written_while_it_is_read", "pinned buffer reused", "peer_group.cu",
    "  turn_ = one_shot ? 1 - turn_ : 0;\n",
    "  turn_ = 0;\n",
    "cuda_peers_test", "PeerGroupBits.RanksThatAreLateChangeNothing")

# --------------------------------------------------------------------------- steps, recording ---

bug("pinned_buffer_reused_too_early", "pinned buffer reused", "step_inputs.cu",
    "  turn_ = 1 - turn_;\n",
    "",
    "cuda_operators_test", "StepInputs.TwoStepsInFlightKeepTheirRows",
    "CudaOperators.StepsInFlightKeepTheirRows")
bug("block_table_without_its_last_block", "lost tail", "step_inputs.cu",
    "sequence.num_rows == 0 ? 0 : ceil_div(end, kBlockTokens);",
    "sequence.num_rows == 0 ? 0 : ceil_div(end - 1, kBlockTokens);",
    "cuda_operators_test", "StepInputs.BlockTablesAreOfTheBlocksThatAStepSees")
bug("recorded_step_keeps_its_plan", "plan not renewed in a recorded step", "cuda_operators.cu",
    "  finish();\n  plan_.reset();\n",
    "  finish();\n",
    "cuda_operators_test", "CudaOperators.ARecordedStepFollowsTheRowsOfItsReplay")
bug("recording_ends_before_what_waits", "lost tail", "cuda_operators.cu",
    "    calls();\n    flush();\n",
    "    calls();\n",
    "cuda_operators_test", "CudaOperators.ARecordedStepFollowsTheRowsOfItsReplay")
bug("step_planned_as_the_one_before", "stale flag", "cuda_operators.cu",
    "  flush();\n  plan_.reset();\n",
    "  flush();\n",
    "cuda_operators_test", "CudaOperators.StepsInFlightKeepTheirRows")
