"""The quantised MicroBi-ConvLSTM as one C99 header."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from assay.methods.adaptation._micro_int8 import QuantModel

TYPES = {"int8": "int8_t", "uint16": "uint16_t", "int32": "int32_t", "float32": "float"}


def header(model: QuantModel, name: str) -> str:
    """Text of the header.

    Raises:
        ValueError: `name` is no C identifier.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,40}", name):
        raise ValueError(f"expected a C identifier, got {name!r}")
    sizes, steps = [model.window * model.channels], model.window
    for stage in model.stages:
        steps //= stage.pool
        sizes.append(steps * stage.weight.shape[0])
    first = model.stages[0].input
    cells, inputs = model.directions[0].weight_hidden.shape[1], model.stages[-1].weight.shape[0]
    words = {
        "NAME": name, "GUARD": name.upper() + "_H", "WINDOW": model.window, "CHANNELS": model.channels,
        "CLASSES": len(model.head), "EVEN": max(sizes[0::2]), "ODD": max(sizes[1::2]), "CELLS": cells,
        "INPUTS": inputs, "STEPS": steps, "WAYS": len(model.directions), "SCALE": repr(float(first.scale)),
        "ZERO": first.zero_point, "MEAN": int(model.readout == "mean"),
        "ARRAYS": "\n".join(_array(name, key, value) for key, value in model.state().items()),
        "CALLS": _calls(model, name), "DIRECTIONS": _directions(model, name),
        "LAST": "even" if len(model.stages) % 2 == 0 else "odd",
    }  # fmt: skip
    return re.sub(r"@([A-Z]+)@", lambda found: str(words[found.group(1)]), TEMPLATE)


def _array(name: str, key: str, value: np.ndarray) -> str:
    numbers = [float(v).hex() + "f" if value.dtype == np.float32 else str(int(v)) for v in value.ravel()]
    rows = [", ".join(numbers[i : i + 24]) for i in range(0, len(numbers), 24)]
    symbol = f"{name}_{key.replace('.', '_')}"
    return f"static const {TYPES[str(value.dtype)]} {symbol}[{len(numbers)}] = {{\n  " + ",\n  ".join(rows) + "};"


def _calls(model: QuantModel, name: str) -> str:
    lines, steps, buffers = [], model.window, ("even", "odd")
    for i, stage in enumerate(model.stages):
        outputs, inputs, kernel = stage.weight.shape
        arrays = ", ".join(f"{name}_conv{i}_{part}" for part in ("weight", "bias", "mantissa", "shift"))
        lines.append(
            f"  {name}_stage({name}_{buffers[i % 2]}, {steps}, {inputs}, {stage.input.zero_point}, {arrays},"
            f" {outputs}, {kernel}, {stage.pool}, {name}_{buffers[(i + 1) % 2]});"
        )
        steps //= stage.pool
    return "\n".join(lines)


def _directions(model: QuantModel, name: str) -> str:
    parts = ("weight_in", "mantissa_in", "shift_in", "weight_hidden", "mantissa_hidden", "shift_hidden", "bias")
    cells = model.directions[0].weight_hidden.shape[1]
    last = "even" if len(model.stages) % 2 == 0 else "odd"
    return "\n".join(
        f"  {name}_direction({name}_{last}, {i}, "
        + ", ".join(f"{name}_lstm{i}_{part}" for part in parts)
        + f", state + {i * cells});"
        for i in range(len(model.directions))
    )


TEMPLATE = """/* MicroBi-ConvLSTM, 8 bits, written by Assay (arXiv 2602.06523). C99, no library, no heap.
 *
 *   int @NAME@_run(const float *x, float *logits)          one window of @WINDOW@ steps x @CHANNELS@ channels,
 *                                                      x[step * @CHANNELS@ + channel], standardised; returns the class
 *   int @NAME@_run_codes(float *logits)                    the same from 8-bit codes already in @NAME@_even
 *
 * Not reentrant: buffers are static. Expects >> of a negative number to keep its sign, as every usual compiler does.
 */
#ifndef @GUARD@
#define @GUARD@
#include <stdint.h>

#define @NAME@_WINDOW @WINDOW@
#define @NAME@_CHANNELS @CHANNELS@
#define @NAME@_CLASSES @CLASSES@

@ARRAYS@

static uint8_t @NAME@_even[@EVEN@];
static uint8_t @NAME@_odd[@ODD@];

static int64_t @NAME@_rescale(int32_t sum, int32_t mantissa, int8_t shift) {
  return ((int64_t)sum * mantissa + ((int64_t)1 << (shift - 1))) >> shift;
}

static int32_t @NAME@_saturate(int64_t x) { return x < -32768 ? -32768 : x > 32767 ? 32767 : (int32_t)x; }

static int32_t @NAME@_sigmoid_of(int32_t z) {
  int32_t u = z + 32768, i = u >> 8, low = @NAME@_sigmoid[i], high = @NAME@_sigmoid[i + 1];
  return low + (((high - low) * (u & 255) + 128) >> 8);
}

static int32_t @NAME@_tanh_of(int32_t z) { return 2 * @NAME@_sigmoid_of(@NAME@_saturate(2 * (int64_t)z)) - 32768; }

static void @NAME@_stage(const uint8_t *in, int steps, int inputs, int zero, const int8_t *weight, const int32_t *bias,
                         const int32_t *mantissa, const int8_t *shift, int outputs, int kernel, int pool,
                         uint8_t *out) {
  for (int t = 0; t < steps / pool; t++)
    for (int o = 0; o < outputs; o++) {
      int64_t best = 0;
      for (int p = 0; p < pool; p++) {
        int32_t sum = bias[o];
        for (int k = 0; k < kernel; k++) {
          int at = t * pool + p + k - kernel / 2;
          if (at < 0 || at >= steps) continue;
          for (int i = 0; i < inputs; i++)
            sum += ((int32_t)in[at * inputs + i] - zero) * weight[(o * inputs + i) * kernel + k];
        }
        int64_t value = @NAME@_rescale(sum, mantissa[o], shift[o]);
        if (value > best) best = value;
      }
      out[t * outputs + o] = (uint8_t)(best > 255 ? 255 : best);
    }
}

static void @NAME@_direction(const uint8_t *in, int backward, const int8_t *weight_in, const int32_t *mantissa_in,
                             const int8_t *shift_in, const int8_t *weight_hidden, const int32_t *mantissa_hidden,
                             const int8_t *shift_hidden, const int32_t *bias, int32_t *result) {
  int8_t hidden[@CELLS@] = {0};
  int16_t cell[@CELLS@] = {0};
  int16_t gate[4 * @CELLS@];
  for (int c = 0; c < @CELLS@; c++) result[c] = 0;
  for (int s = 0; s < @STEPS@; s++) {
    const uint8_t *x = in + (backward ? @STEPS@ - 1 - s : s) * @INPUTS@;
    for (int r = 0; r < 4 * @CELLS@; r++) {
      int32_t given = 0, recalled = 0;
      for (int i = 0; i < @INPUTS@; i++) given += (int32_t)x[i] * weight_in[r * @INPUTS@ + i];
      for (int c = 0; c < @CELLS@; c++) recalled += (int32_t)hidden[c] * weight_hidden[r * @CELLS@ + c];
      gate[r] = (int16_t)@NAME@_saturate(@NAME@_rescale(given, mantissa_in[r], shift_in[r]) + bias[r] +
                                         @NAME@_rescale(recalled, mantissa_hidden[r], shift_hidden[r]));
    }
    for (int c = 0; c < @CELLS@; c++) {
      int32_t i = @NAME@_sigmoid_of(gate[c]), f = @NAME@_sigmoid_of(gate[@CELLS@ + c]);
      int32_t g = @NAME@_tanh_of(gate[2 * @CELLS@ + c]), o = @NAME@_sigmoid_of(gate[3 * @CELLS@ + c]);
      int64_t kept = ((int64_t)f * cell[c] + (1 << 14)) >> 15;
      cell[c] = (int16_t)@NAME@_saturate(kept + (((int64_t)i * g + (1 << 17)) >> 18));
      int64_t out = ((int64_t)o * @NAME@_tanh_of(cell[c]) + (1 << 14)) >> 15;
      hidden[c] = (int8_t)((out * 127 + (1 << 14)) >> 15);
      result[c] = @MEAN@ ? result[c] + hidden[c] : hidden[c];
    }
  }
}

static int @NAME@_run_codes(float *logits) {
  int32_t state[@WAYS@ * @CELLS@];
@CALLS@
@DIRECTIONS@
  int best = 0;
  for (int k = 0; k < @CLASSES@; k++) {
    int32_t sum = 0;
    for (int c = 0; c < @WAYS@ * @CELLS@; c++) sum += state[c] * @NAME@_head_weight[k * @WAYS@ * @CELLS@ + c];
    float value = @MEAN@ ? (float)sum / (float)@STEPS@ : (float)sum;
    logits[k] = value * @NAME@_head_scale[k] + @NAME@_head_bias[k];
    if (logits[k] > logits[best]) best = k;
  }
  return best;
}

static int @NAME@_run(const float *x, float *logits) {
  for (int i = 0; i < @WINDOW@ * @CHANNELS@; i++) {
    double scaled = (double)x[i] / @SCALE@;
    if (scaled > 512) scaled = 512;
    if (scaled < -512) scaled = -512;
    int32_t code = (int32_t)(scaled + (scaled < 0 ? -0.5 : 0.5)) + @ZERO@;
    @NAME@_even[i] = (uint8_t)(code < 0 ? 0 : code > 255 ? 255 : code);
  }
  return @NAME@_run_codes(logits);
}
#endif
"""
