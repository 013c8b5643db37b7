// Many steps of SGD on one member of an ensemble by one block of threads, as `fused.py` describes it.
//
// The 128 x 128 weights stay in shared memory and their velocity in registers, as the accumulators of the
// product that is their gradient. The first layer has one feature, so it is computed again wherever it is
// read.
#include <cuda_runtime.h>

#include "xla/ffi/api/ffi.h"

constexpr int N = 128, BATCH = 64, THREADS = 256, LEAVES = 8;
constexpr float LEARNING_RATE = 5e-3f, MOMENTUM = 0.9f, WEIGHT_DECAY = 1e-4f;
// Leaves: kernel and bias of hidden_0, of hidden_1, of mean_head and of log_var_head; then their velocities.

struct Arrays {
  const float *x, *y, *before[2 * LEAVES];
  float *after[2 * LEAVES], *losses;
  int steps;
};

struct Shared {
  float weights[N * N], d2[BATCH * N];
  float vectors[5][N], velocities[5][N];  // w1, b1, b2, mean head, log_var head
  float column_sums[5][2][N];             // gradients of the same, by halves of the batch
  float heads[2][4][BATCH];               // sums over a quarter of the columns
  float d_mean[BATCH], d_raw[BATCH], x[BATCH], y[BATCH];
  float bias[2], bias_velocity[2], sums[2][3];
};
__constant__ const int VECTORS[5] = {0, 1, 3, 4, 6}, BIASES[2] = {5, 7};  // their leaves

// Where an entry of a matrix with 128 columns lies: none of the ways to read it has two threads of a warp at
// one bank. Of its row and column those parts are apart that are multiples of 8 and of 32.
__device__ __forceinline__ int at(int row8, int row, int column32, int column) {
  return (row8 + row) * N + column32 + (column ^ ((row & 3) * 8 + (row & 4)));
}

__device__ __forceinline__ int at(int row, int column) {
  return at(row / 8 * 8, row % 8, column / 32 * 32, column % 32);
}

// BEGIN mma
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Hides where a number comes from: the compiler then computes addresses anew in each part of a step, rather
// than hold all of them in registers.
__device__ __forceinline__ int fresh(int value) {
  asm volatile("" : "+r"(value));
  return value;
}
// END mma

// Which entries of the products a thread holds; see the manual of PTX on mma.m16n8k8.
struct Place {
  int lane, g, t;                     // in the warp, and the row and the pair of columns of a tile
  int half, quarter, row0, column0;  // of the warp, among the rows and the columns of a product
  int summed;                         // the column whose sum the thread has from `sum_columns`
};

__device__ __forceinline__ Place place() {
  const int thread = fresh(threadIdx.x), lane = thread % 32, g = lane / 4, t = lane % 4;
  const int half = thread / 128, quarter = thread / 32 % 4;
  return {lane, g, t, half, quarter, half * 32 + g, quarter * 32, quarter * 32 + g / 2 * 8 + 2 * t + g % 2};
}

// Entries of a matrix as TF32, and with TRIPLE also what is lost by it.
template <bool TRIPLE, int COUNT>
struct Split {
  unsigned high[COUNT], low[TRIPLE ? COUNT : 1];
  // To the nearest, unless it was rounded before; the last 13 bits don't count.
  __device__ __forceinline__ void set(int i, float value, bool is_rounded = false) {
    unsigned rounded = __float_as_uint(value) + (is_rounded && !TRIPLE ? 0u : 0x1000u);
    if constexpr (TRIPLE) {
      rounded &= 0xffffe000u;
      low[i] = __float_as_uint(value - __uint_as_float(rounded));
    }
    high[i] = rounded;
  }
};

template <bool TRIPLE>
__device__ __forceinline__ void multiply(float (&c)[4], const Split<TRIPLE, 4>& a,
                                         const Split<TRIPLE, 2>& b) {
  if constexpr (TRIPLE) {
    mma(c, a.low, b.high);
    mma(c, a.high, b.low);
  }
  mma(c, a.high, b.high);
}

// Sums of 8 values over the 8 threads of a warp that share lane % 4; the one with lane / 4 == i has the i-th.
__device__ __forceinline__ float sum_columns(float (&v)[8], int lane) {
#pragma unroll
  for (int half = 4; half; half /= 2) {
    const bool upper = lane & (half * 4);
#pragma unroll
    for (int i = 0; i < half; i++) {
      const float kept = upper ? v[i + half] : v[i], sent = upper ? v[i] : v[i + half];
      v[i] = kept + __shfl_xor_sync(0xffffffffu, sent, half * 4);
    }
  }
  return v[0];
}

__device__ __forceinline__ float sum_lanes(float value, int width) {
  for (int i = width / 2; i; i /= 2) value += __shfl_xor_sync(0xffffffffu, value, i);
  return value;
}

__device__ __forceinline__ void descend(float& param, float& velocity, float gradient) {
  velocity = (MOMENTUM * velocity + WEIGHT_DECAY * param) + gradient;
  param -= LEARNING_RATE * velocity;
}

// So many blocks fit on a multiprocessor: one has twice the registers; of two, one computes while the other
// waits.
template <bool TRIPLE, int BLOCKS>
__global__ void __launch_bounds__(THREADS, BLOCKS) train(const __grid_constant__ Arrays arrays) {
  extern __shared__ float4 memory[];
  Shared& s = *reinterpret_cast<Shared*>(memory);
  const int thread = threadIdx.x;
  Place p = place();
  const size_t member = blockIdx.x;

  float velocity[4][4][4];
  const float *weights_before = arrays.before[2] + member * N * N;
  const float *velocity_before = arrays.before[2 + LEAVES] + member * N * N;
  for (int i = thread; i < N * N; i += THREADS) s.weights[at(i / N, i % N)] = weights_before[i];
#pragma unroll
  for (int i = 0; i < 64; i++) {
    const int row = p.half * 64 + i / 16 * 16 + p.g + i % 4 / 2 * 8;
    const int column = p.column0 + i / 4 % 4 * 8 + 2 * p.t + i % 2;
    velocity[i / 16][i / 4 % 4][i % 4] = velocity_before[row * N + column];
  }
  for (int i = thread; i < 5 * N; i += THREADS) {
    s.vectors[i / N][i % N] = arrays.before[VECTORS[i / N]][member * N + i % N];
    s.velocities[i / N][i % N] = arrays.before[VECTORS[i / N] + LEAVES][member * N + i % N];
  }
  if (thread < 2) {
    s.bias[thread] = arrays.before[BIASES[thread]][member];
    s.bias_velocity[thread] = arrays.before[BIASES[thread] + LEAVES][member];
  }
  if (thread < BATCH) {
    s.x[thread] = arrays.x[member * arrays.steps * BATCH + thread];
    s.y[thread] = arrays.y[member * arrays.steps * BATCH + thread];
  }
  __syncthreads();

  for (int step = 0; step < arrays.steps; step++) {
    p = place();
    const float *w1 = s.vectors[0], *b1 = s.vectors[1];
    float rows_x[4], h2[2][4][4];
#pragma unroll
    for (int i = 0; i < 4; i++) rows_x[i] = s.x[p.row0 + i * 8];
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const float2 b2 = *reinterpret_cast<const float2*>(&s.vectors[2][p.column0 + n * 8 + 2 * p.t]);
#pragma unroll
      for (int m = 0; m < 2; m++) h2[m][n][0] = h2[m][n][2] = b2.x, h2[m][n][1] = h2[m][n][3] = b2.y;
    }
#pragma unroll 2
    for (int k = 0; k < N; k += 8) {
      Split<TRIPLE, 4> a[2];
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int unit = k + p.t + i % 4 / 2 * 4;
        a[i / 4].set(i % 4, fmaxf(fmaf(rows_x[i / 4 * 2 + i % 2], w1[unit], b1[unit]), 0.f));
      }
#pragma unroll
      for (int n = 0; n < 4; n++) {
        Split<TRIPLE, 2> b;
        b.set(0, s.weights[at(k, p.t, p.column0, n * 8 + p.g)]);
        b.set(1, s.weights[at(k, p.t + 4, p.column0, n * 8 + p.g)]);
#pragma unroll
        for (int m = 0; m < 2; m++) multiply<TRIPLE>(h2[m][n], a[m], b);
      }
    }

    p = place();
    float heads[2][4] = {};
#pragma unroll
    for (int i = 0; i < 32; i++) {
      float& value = h2[i / 16][i / 4 % 4][i % 4];
      value = fmaxf(value, 0.f);
      const int column = p.column0 + i / 4 % 4 * 8 + 2 * p.t + i % 2, row = i / 16 * 2 + i % 4 / 2;
      heads[0][row] += value * s.vectors[3][column];
      heads[1][row] += value * s.vectors[4][column];
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const float sum = sum_lanes(heads[i / 4][i % 4], 4);
      if (p.t == 0) s.heads[i / 4][p.quarter][p.row0 + i % 4 * 8] = sum;
    }
    __syncthreads();

    if (thread < BATCH) {
      float out[2];
      for (int i = 0; i < 2; i++) {
        const float(&parts)[4][BATCH] = s.heads[i];
        out[i] = (parts[0][thread] + parts[1][thread]) + (parts[2][thread] + parts[3][thread]) + s.bias[i];
      }
      const float tail = expf(-fabsf(out[1]));
      const float var = fmaxf(out[1], 0.f) + log1pf(tail) + 1e-6f, precise = 1.f / var;
      const float slope = (out[1] > 0 ? 1.f : tail) / (1.f + tail);  // of the softplus
      const float residual = out[0] - s.y[thread], squared = residual * residual * precise;
      const float d_mean = residual * precise * (1.f / BATCH);
      const float d_raw = (1.f - squared) * precise * slope * (0.5f / BATCH);
      s.d_mean[thread] = d_mean;
      s.d_raw[thread] = d_raw;
      const float sums[3] = {sum_lanes(d_mean, 32), sum_lanes(d_raw, 32), sum_lanes(logf(var) + squared, 32)};
      if (p.lane == 0) {
        for (int i = 0; i < 3; i++) s.sums[thread / 32][i] = sums[i];
      }
    }
    __syncthreads();

    // Pass by pass, since sums of all three at once overflow the registers.
#pragma unroll
    for (int pass = 0; pass < 3; pass++) {
      p = place();
      float sums[8] = {};
#pragma unroll
      for (int i = 0; i < 16; i++) {
        const int m = i / 8, n = i / 2 % 4, below = i % 2, row = p.row0 + m * 16 + below * 8;
        const int column = p.column0 + n * 8 + 2 * p.t;
        float values[2] = {h2[m][n][below * 2], h2[m][n][below * 2 + 1]};
#pragma unroll
        for (int e = 0; e < 2; e++) {
          if (pass < 2) {
            values[e] *= pass ? s.d_raw[row] : s.d_mean[row];
          } else {
            const float by_mean = s.d_mean[row] * s.vectors[3][column + e];
            values[e] = values[e] > 0 ? by_mean + s.d_raw[row] * s.vectors[4][column + e] : 0.f;
          }
          sums[n * 2 + e] += values[e];
        }
        if (pass == 2) {
          Split<TRIPLE, 2> d2;
          for (int e = 0; e < 2; e++) d2.set(e, values[e]);
          const int place = at(row - p.g, p.g, p.column0, n * 8 + 2 * p.t);
          for (int e = 0; e < 2; e++) s.d2[place + e] = TRIPLE ? values[e] : __uint_as_float(d2.high[e]);
        }
      }
      s.column_sums[pass == 2 ? 2 : pass + 3][p.half][p.summed] = sum_columns(sums, p.lane);
    }
    __syncthreads();

    p = place();
    float d1[2][4][4] = {};
#pragma unroll 1
    for (int k32 = 0; k32 < N; k32 += 32) {
#pragma unroll
      for (int k = p.t; k < p.t + 32; k += 8) {
        Split<TRIPLE, 4> a[2];
#pragma unroll
        for (int i = 0; i < 8; i++) {
          const int row8 = p.half * 32 + i / 4 * 16 + i % 2 * 8;
          a[i / 4].set(i % 4, s.d2[at(row8, p.g, k32, k + i % 4 / 2 * 4)], true);
        }
#pragma unroll
        for (int n = 0; n < 4; n++) {
          Split<TRIPLE, 2> b;
          b.set(0, s.weights[at(p.column0 + n * 8, p.g, k32, k)]);
          b.set(1, s.weights[at(p.column0 + n * 8, p.g, k32, k + 4)]);
#pragma unroll
          for (int m = 0; m < 2; m++) multiply<TRIPLE>(d1[m][n], a[m], b);
        }
      }
    }
    p = place();
    float first[2][8] = {};
#pragma unroll
    for (int i = 0; i < 32; i++) {
      const int column = i / 4 % 4 * 2 + i % 2, unit = p.column0 + i / 4 % 4 * 8 + 2 * p.t + i % 2;
      const float here = s.x[p.row0 + i / 16 * 16 + i % 4 / 2 * 8];
      const float d = fmaf(here, w1[unit], b1[unit]) > 0 ? d1[i / 16][i / 4 % 4][i % 4] : 0.f;
      first[0][column] += d * here;
      first[1][column] += d;
    }
#pragma unroll
    for (int i = 0; i < 2; i++) s.column_sums[i][p.half][p.summed] = sum_columns(first[i], p.lane);

    p = place();
#pragma unroll
    for (int i = 0; i < 64; i++) {
      const int row8 = p.half * 64 + i / 16 * 16 + i % 4 / 2 * 8;
      const float weight = s.weights[at(row8, p.g, p.column0, i / 4 % 4 * 8 + 2 * p.t) + i % 2];
      float& value = velocity[i / 16][i / 4 % 4][i % 4];
      value = MOMENTUM * value + WEIGHT_DECAY * weight;
    }
    p = place();
    float next = 0;
    if (thread < 2 * BATCH && step + 1 < arrays.steps) {
      const float* from = thread < BATCH ? arrays.x : arrays.y;
      const size_t done = static_cast<size_t>(fresh(blockIdx.x)) * arrays.steps + step;
      next = from[(done + 1) * BATCH + thread % BATCH];
    }
#pragma unroll 1
    for (int k = 0; k < BATCH; k += 8) {
      const float near = s.x[k + p.t], far = s.x[k + p.t + 4];
      Split<TRIPLE, 2> b[4];
#pragma unroll
      for (int n = 0; n < 4; n++) {
        b[n].set(0, s.d2[at(k, p.t, p.column0, n * 8 + p.g)], true);
        b[n].set(1, s.d2[at(k, p.t + 4, p.column0, n * 8 + p.g)], true);
      }
#pragma unroll
      for (int m = 0; m < 4; m++) {
        Split<TRIPLE, 4> a;
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int unit = p.half * 64 + m * 16 + p.g + i % 2 * 8;
          a.set(i, fmaxf(fmaf(i < 2 ? near : far, w1[unit], b1[unit]), 0.f));
        }
#pragma unroll
        for (int n = 0; n < 4; n++) multiply<TRIPLE>(velocity[m][n], a, b[n]);
      }
    }
    __syncthreads();

    p = place();
#pragma unroll
    for (int i = 0; i < 32; i++) {
      const int place = at(p.half * 64 + i / 8 * 16 + i % 2 * 8, p.g, p.column0, i / 2 % 4 * 8 + 2 * p.t);
      const float* change = &velocity[i / 8][i / 2 % 4][i % 2 * 2];
      float2& weight = *reinterpret_cast<float2*>(&s.weights[place]);
      weight = make_float2(weight.x - LEARNING_RATE * change[0], weight.y - LEARNING_RATE * change[1]);
    }
    for (int i = thread; i < 5 * N; i += THREADS) {
      const float gradient = s.column_sums[i / N][0][i % N] + s.column_sums[i / N][1][i % N];
      descend(s.vectors[i / N][i % N], s.velocities[i / N][i % N], gradient);
    }
    if (thread < 2) descend(s.bias[thread], s.bias_velocity[thread], s.sums[0][thread] + s.sums[1][thread]);
    if (thread == 2) {
      const size_t done = static_cast<size_t>(fresh(blockIdx.x)) * arrays.steps + step;
      arrays.losses[done] = (s.sums[0][2] + s.sums[1][2]) * (0.5f / BATCH);
    }
    if (thread < 2 * BATCH) (thread < BATCH ? s.x : s.y)[thread % BATCH] = next;
    __syncthreads();
  }

  float *weights_after = arrays.after[2] + member * N * N;
  float *velocity_after = arrays.after[2 + LEAVES] + member * N * N;
  for (int i = thread; i < N * N; i += THREADS) weights_after[i] = s.weights[at(i / N, i % N)];
#pragma unroll
  for (int i = 0; i < 64; i++) {
    const int row = p.half * 64 + i / 16 * 16 + p.g + i % 4 / 2 * 8;
    const int column = p.column0 + i / 4 % 4 * 8 + 2 * p.t + i % 2;
    velocity_after[row * N + column] = velocity[i / 16][i / 4 % 4][i % 4];
  }
  for (int i = thread; i < 5 * N; i += THREADS) {
    arrays.after[VECTORS[i / N]][member * N + i % N] = s.vectors[i / N][i % N];
    arrays.after[VECTORS[i / N] + LEAVES][member * N + i % N] = s.velocities[i / N][i % N];
  }
  if (thread < 2) {
    arrays.after[BIASES[thread]][member] = s.bias[thread];
    arrays.after[BIASES[thread] + LEAVES][member] = s.bias_velocity[thread];
  }
}

// BEGIN XLA
namespace ffi = xla::ffi;

template <bool TRIPLE, int BLOCKS>
ffi::Error launch(cudaStream_t stream, ffi::RemainingArgs inputs, ffi::RemainingRets outputs) {
  Arrays arrays;
  const auto x = inputs.get<ffi::AnyBuffer>(0);
  arrays.x = static_cast<const float*>(x->untyped_data());
  arrays.y = static_cast<const float*>(inputs.get<ffi::AnyBuffer>(1)->untyped_data());
  for (int i = 0; i < 2 * LEAVES; i++) {
    arrays.before[i] = static_cast<const float*>(inputs.get<ffi::AnyBuffer>(2 + i)->untyped_data());
    arrays.after[i] = static_cast<float*>((*outputs.get<ffi::AnyBuffer>(i))->untyped_data());
  }
  arrays.losses = static_cast<float*>((*outputs.get<ffi::AnyBuffer>(2 * LEAVES))->untyped_data());
  arrays.steps = static_cast<int>(x->dimensions()[1]);
  const int members = static_cast<int>(x->dimensions()[0]);
  const auto function = train<TRIPLE, BLOCKS>;
  cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared));
  cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout,
                       cudaSharedmemCarveoutMaxShared);
  function<<<members, THREADS, sizeof(Shared), stream>>>(arrays);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? ffi::Error::Success() : ffi::Error::Internal(cudaGetErrorString(error));
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(
    train_tf32_1, (launch<false, 1>),
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<cudaStream_t>>().RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    train_tf32_2, (launch<false, 2>),
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<cudaStream_t>>().RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    train_3xtf32_1, (launch<true, 1>),
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<cudaStream_t>>().RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    train_3xtf32_2, (launch<true, 2>),
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<cudaStream_t>>().RemainingArgs().RemainingRets());
