// A matrix packed in panels. Made by pack_matrix, read by linear.
#pragma once

#include <cstddef>
#include <memory>

#include "kernels/cpu/panel_layout.h"
#include "kernels/operators.h"

namespace phalanx::kernels::cpu {

/// Owns the panels (panel_layout.h says what lies where).
class PanelMatrix final : public PackedMatrix {
 public:
  /// Zeroed panels of that layout, to be filled by pack_matrix.
  PanelMatrix(const PanelLayout& layout, bool has_bias);

  const PanelLayout& layout() const { return layout_; }
  std::byte* panels() { return memory_.get(); }
  const std::byte* panels() const { return memory_.get(); }
  /// [64 * num_panels], or null.
  float* bias();
  const float* bias() const;

 private:
  PanelLayout layout_;
  bool has_bias_ = false;
  std::shared_ptr<std::byte> memory_;
};

}  // namespace phalanx::kernels::cpu
