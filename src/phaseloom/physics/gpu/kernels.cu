// One update of a plain experiment: positions, modes, object, detector, the way back, and Newton's steps.
//
// Written for phaseloom.physics.gpu.source, which puts the transforms of a window's rows and columns and the
// sizes in front. A wave goes through memory twice for each slice: once along columns (transform, flight, and
// transform back in one kernel), once along rows (transform back, transmission, transform). Between two kernels
// a wave is therefore transformed along columns alone.
//
// Transforms are not scaled: flights carry the factor of theirs, the spectrum of the modes all the others.
// With g the complex conjugate of the gradient every adjoint is a transpose, and the way back is the way forth.

struct Arguments {
  float2* wave;            // (pattern, mode, y, x)
  float2* incident;        // (slice, pattern, mode, y, x): waves that fall on each slice
  float2* spectrum;        // (mode, y, x): modes, transformed
  float2* spectrum_speed;  // their velocity
  float2* spectrum_slope;  // their derivative, zero between two batches
  float2* object;          // (slice, tall, broad): transmission
  float2* object_speed;
  float2* object_slope;    // zero between two batches
  float* phase;            // (slice, tall, broad): of an object of phases, whose transmission follows from them
  float* phase_speed;
  float* phase_slope;      // zero between two batches
  const float* wide;       // (slice, tall, broad): curvature of a scan
  const float* lone;       // (slice): of a pattern
  const float2* flights;   // (gap, y, x)
  const void* counts;      // (row, y, x), zero frequency in the corner
  const float* weights;    // (n)
  const float* flat;       // (y, x), or null
  const float* background;
  const float* mask;
  float2* offsets;         // (n) of a position: its own shift
  const float2* centre;    // (n): where the prior draws it to
  const float2* arm;       // (n)
  const float2* fixed;     // (n)
  const float4* inverse;   // (n, 2, 2)
  const float* turned;     // (2, 2)
  float* affine;           // (2, 2)
  float* affine_speed;
  const float* affine_inverse;  // (4, 4)
  const long long* index;  // patterns of all batches
  const long long* rows;   // and where their counts are
  const int* first;        // (batch + 1): where each begins
  const float* knobs;      // (batch, 7), see phaseloom.physics.engine.steps.step_batches
  double* found;           // (batch, 5)
  int* batch;              // the one that is next
  int* box;                // top, bottom, left, right of all windows; nothing between two batches
  int2* corners;           // (pattern)
  float2* rests;           // (pattern), then the derivative
  float2* ramps_y;         // (pattern, y)
  float2* ramps_x;         // (pattern, x)
  float reach, unit, floor, limit, level, probe_unit, most_shift, most_number;
  int slices, modes, tall, broad, half_y, half_x, room_y, room_x;
  int stored, noise, phases, moves_object, moves_beam, patterns;
};

#define KNOBS 7
#define FOUND 5

__device__ inline bool moves(float knob) { return knob == knob; }

__device__ inline int size_of(const Arguments& a) { return a.first[*a.batch + 1] - a.first[*a.batch]; }

// Sums over a block of ``COUNT`` numbers of each thread, valid in its first thread; ``room`` has as many.
template <int COUNT>
__device__ inline void add_block(float (&value)[COUNT], float* room) {
  int n = blockDim.x, i = threadIdx.x;
#pragma unroll
  for (int k = 0; k < COUNT; ++k) room[COUNT * i + k] = value[k];
  __syncthreads();
  while (n > 1) {
    int half = (n + 1) / 2;
    if (i < n - half) {
#pragma unroll
      for (int k = 0; k < COUNT; ++k) room[COUNT * i + k] += room[COUNT * (i + half) + k];
    }
    n = half;
    __syncthreads();
  }
#pragma unroll
  for (int k = 0; k < COUNT; ++k) value[k] = room[k];
}

__device__ inline void add_pair(float2* into, float2 value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v2.f32 [%0], {%1, %2};" ::"l"(into), "f"(value.x), "f"(value.y) : "memory");
#else
  atomicAdd(&into->x, value.x);
  atomicAdd(&into->y, value.y);
#endif
}

// Where windows lie, and the ramps that move the modes by the rest.
extern "C" __global__ void place(Arguments a) {
  int p = blockIdx.x;
  if (p >= size_of(a)) return;
  long long n = a.index[a.first[*a.batch] + p];
  float2 arm = a.arm[n], own = a.offsets[n], fixed = a.fixed[n];
  float y = fixed.x + a.unit * own.x + (a.turned[0] + a.affine[0] / a.reach) * arm.x +
            (a.turned[1] + a.affine[1] / a.reach) * arm.y;
  float x = fixed.y + a.unit * own.y + (a.turned[2] + a.affine[2] / a.reach) * arm.x +
            (a.turned[3] + a.affine[3] / a.reach) * arm.y;
  int top = min(max(int(rintf(y)) - a.half_y, 0), a.room_y);
  int left = min(max(int(rintf(x)) - a.half_x, 0), a.room_x);
  float rest_y = y - float(top + a.half_y), rest_x = x - float(left + a.half_x);
  if (threadIdx.x == 0) {
    a.corners[p] = make_int2(top, left);
    atomicMin(a.box, top);
    atomicMax(a.box + 1, top + NY);
    atomicMin(a.box + 2, left);
    atomicMax(a.box + 3, left + NX);
    a.rests[p] = make_float2(0.0f, 0.0f);
  }
  for (int i = threadIdx.x; i < NY + NX; i += blockDim.x) {
    bool down = i < NY;
    int k = down ? i : i - NY, n_ = down ? NY : NX;
    float f = float(k < (n_ + 1) / 2 ? k : k - n_) / float(n_);
    float2 ramp;
    sincospif(-2.0f * (down ? rest_y : rest_x) * f, &ramp.y, &ramp.x);
    if (down)
      a.ramps_y[p * NY + k] = ramp;
    else
      a.ramps_x[p * NX + k] = ramp;
  }
}

#define COLUMN_THREAD                                      \
  __shared__ float2 shared[NY * COLUMNS];                  \
  int c = threadIdx.x % COLUMNS, t = threadIdx.x / COLUMNS; \
  int x = blockIdx.x * COLUMNS + c;                        \
  ColumnRoom room{shared + c};                             \
  float2 v[EY];

#define ROW_THREAD                                      \
  __shared__ float2 shared[LINES * ROW_ROOM];           \
  int t = threadIdx.x % TX, line = threadIdx.x / TX;    \
  int y = blockIdx.x * LINES + line;                    \
  RowRoom room{shared + line * ROW_ROOM};               \
  float2 v[EX];

// Columns: the modes, moved, transformed back along y.
extern "C" __global__ void COLUMN_BOUNDS enter(Arguments a) {
  int p = blockIdx.z, m = blockIdx.y;
  if (p >= size_of(a)) return;
  COLUMN_THREAD
  float2 ramp = a.ramps_x[p * NX + x];
#pragma unroll
  for (int i = 0; i < EY; ++i) {
    int y = t + TY * i;
    v[i] = times(times(a.spectrum[(m * NY + y) * NX + x], a.ramps_y[p * NY + y]), ramp);
  }
  transform_y<1>(v, t, room);
  float2* out = a.wave + ((long long)(p * a.modes + m) * NY) * NX + x;
#pragma unroll
  for (int i = 0; i < EY; ++i) out[(t + TY * i) * NX] = v[i];
}

// Rows: back to real space, through a slice, and transformed along x.
extern "C" __global__ void ROW_BOUNDS transmit(Arguments a, int slice) {
  int p = blockIdx.z, m = blockIdx.y;
  if (p >= size_of(a)) return;
  ROW_THREAD
  long long at = ((long long)(p * a.modes + m) * NY + y) * NX;
  float2* wave = a.wave + at;
  float2* kept = a.incident + (long long)slice * a.patterns * a.modes * NY * NX + at;
  int2 corner = a.corners[p];
  const float2* seen = a.object + ((long long)slice * a.tall + corner.x + y) * a.broad + corner.y;
#pragma unroll
  for (int i = 0; i < EX; ++i) v[i] = wave[t + TX * i];
  transform_x<1>(v, t, room);
#pragma unroll
  for (int i = 0; i < EX; ++i) {
    kept[t + TX * i] = v[i];
    v[i] = times(v[i], seen[t + TX * i]);
  }
  transform_x<-1>(v, t, room);
#pragma unroll
  for (int i = 0; i < EX; ++i) wave[t + TX * i] = v[i];
}

// Columns: a flight through a gap, there (1) or back (-1).
template <int WAY>
__device__ inline void fly(const Arguments& a, int gap) {
  int p = blockIdx.z, m = blockIdx.y;
  if (p >= size_of(a)) return;
  COLUMN_THREAD
  float2* wave = a.wave + ((long long)(p * a.modes + m) * NY) * NX + x;
  const float2* flight = a.flights + (long long)gap * NY * NX + x;
#pragma unroll
  for (int i = 0; i < EY; ++i) v[i] = wave[(t + TY * i) * NX];
  transform_y<-WAY>(v, t, room);
#pragma unroll
  for (int i = 0; i < EY; ++i) v[i] = times(v[i], flight[(t + TY * i) * NX]);
  transform_y<WAY>(v, t, room);
#pragma unroll
  for (int i = 0; i < EY; ++i) wave[(t + TY * i) * NX] = v[i];
}

extern "C" __global__ void COLUMN_BOUNDS fly_on(Arguments a, int gap) { fly<1>(a, gap); }
// On the way back a wave comes transformed along x, and wants the transpose: the same with the other sign,
// between a transform back and one forth.
extern "C" __global__ void COLUMN_BOUNDS fly_back(Arguments a, int gap) { fly<-1>(a, gap); }

__device__ inline float read_count(const Arguments& a, long long at) {
  switch (a.stored) {
    case 0: return float(((const unsigned char*)a.counts)[at]);
    case 1: return float(((const signed char*)a.counts)[at]);
    case 2: return float(((const unsigned short*)a.counts)[at]);
    case 3: return float(((const short*)a.counts)[at]);
    default: return ((const float*)a.counts)[at];
  }
}

// Divergence of a pixel and its slope.
__device__ inline float2 judge(const Arguments& a, float model, float count) {
  if (a.noise == 0) {
    float amplitude = sqrtf(model + a.floor), gap = amplitude - sqrtf(count + a.floor);
    return make_float2(gap * gap, gap / amplitude);
  }
  float rate = fmaxf(model + a.floor, 1e-30f), n = count + a.floor;
  float ratio = n / rate, log_ratio = logf(fmaxf(ratio, 1e-30f));
  float2 found = make_float2(log_ratio * n + rate - n, 1.0f - ratio);
  if (a.limit < 1e30f && found.x > 0.5f * a.limit * a.limit) {
    float square = a.limit * a.limit / n, edge = fminf(0.5f * square + sqrtf(square), 60.0f);
    if (log_ratio > edge) {
      float amplitude = expf(0.5f * (edge + log_ratio));
      found = make_float2(rate * (1.0f - 2.0f * amplitude) + n * (1.0f + edge), 1.0f - amplitude);
    }
  }
  return found;
}

// Columns: to the detector, compared, and the first half of the way back.
extern "C" __global__ void COLUMN_BOUNDS detect(Arguments a) {
  int p = blockIdx.y;
  int b = *a.batch, size = a.first[b + 1] - a.first[b];
  if (p >= size) return;
  COLUMN_THREAD
  __shared__ float sums[COLUMNS * TY];
  float light[EY];
#pragma unroll
  for (int i = 0; i < EY; ++i) light[i] = 0.0f;
  float2* waves = a.wave + ((long long)p * a.modes * NY) * NX + x;
  for (int m = 0; m < a.modes; ++m) {
    float2* wave = waves + (long long)m * NY * NX;
#pragma unroll
    for (int i = 0; i < EY; ++i) v[i] = wave[(t + TY * i) * NX];
    transform_y<-1>(v, t, room);
#pragma unroll
    for (int i = 0; i < EY; ++i) light[i] += v[i].x * v[i].x + v[i].y * v[i].y;
    if (a.modes > 1) {
#pragma unroll
      for (int i = 0; i < EY; ++i) wave[(t + TY * i) * NX] = v[i];
    }
  }
  long long n = a.index[a.first[b] + p];
  long long row = a.rows[a.first[b] + p] * (long long)(NY * NX);
  float weight = a.weights[n], share = 1.0f / (float(size) * a.level), total[1] = {0.0f};
#pragma unroll
  for (int i = 0; i < EY; ++i) {
    int at = (t + TY * i) * NX + x;
    float by = a.flat ? weight * a.flat[at] : weight;
    float model = light[i] * by + (a.background ? a.background[at] : 0.0f);
    float2 found = judge(a, model, read_count(a, row + at));
    float trust = a.mask ? a.mask[at] : 1.0f;
    total[0] += trust * found.x;
    light[i] = 2.0f * share * trust * by * found.y;
  }
  add_block(total, sums);
  if (threadIdx.x == 0) atomicAdd(a.found + FOUND * b, double(total[0] * share));
  if (!a.moves_object && !a.moves_beam) return;
  for (int m = 0; m < a.modes; ++m) {
    float2* wave = waves + (long long)m * NY * NX;
    if (a.modes > 1) {
#pragma unroll
      for (int i = 0; i < EY; ++i) v[i] = wave[(t + TY * i) * NX];
    }
#pragma unroll
    for (int i = 0; i < EY; ++i) v[i] = make_float2(light[i] * v[i].x, -light[i] * v[i].y);
    transform_y<-1>(v, t, room);
#pragma unroll
    for (int i = 0; i < EY; ++i) wave[(t + TY * i) * NX] = v[i];
  }
}

// Rows: transpose of `transmit`; the object's derivative is summed over modes first.
template <bool PHASES>
__device__ inline void return_through(const Arguments& a, int slice) {
  int p = blockIdx.z, groups = gridDim.y;
  if (p >= size_of(a)) return;
  ROW_THREAD
  int2 corner = a.corners[p];
  long long first = ((long long)slice * a.tall + corner.x + y) * a.broad + corner.y;
  const float2* seen = a.object + first;
  float2 sum[EX];
#pragma unroll
  for (int i = 0; i < EX; ++i) sum[i] = make_float2(0.0f, 0.0f);
  for (int m = blockIdx.y; m < a.modes; m += groups) {
    long long at = ((long long)(p * a.modes + m) * NY + y) * NX;
    float2* wave = a.wave + at;
    const float2* kept = a.incident + (long long)slice * a.patterns * a.modes * NY * NX + at;
#pragma unroll
    for (int i = 0; i < EX; ++i) v[i] = wave[t + TX * i];
    transform_x<-1>(v, t, room);
#pragma unroll
    for (int i = 0; i < EX; ++i) {
      float2 wave_here = kept[t + TX * i], behind = times(v[i], seen[t + TX * i]);
      float2 here = times(PHASES ? behind : v[i], wave_here);
      sum[i].x += here.x;
      sum[i].y -= here.y;
      v[i] = behind;
    }
    if (slice || a.moves_beam) {
      transform_x<1>(v, t, room);
#pragma unroll
      for (int i = 0; i < EX; ++i) wave[t + TX * i] = v[i];
    }
  }
  if (a.moves_object && PHASES) {
#pragma unroll
    for (int i = 0; i < EX; ++i) atomicAdd(a.phase_slope + first + t + TX * i, sum[i].y);
  } else if (a.moves_object) {
#pragma unroll
    for (int i = 0; i < EX; ++i) add_pair(a.object_slope + first + t + TX * i, sum[i]);
  }
}

extern "C" __global__ void ROW_BOUNDS transmit_back(Arguments a, int slice) { return_through<false>(a, slice); }
extern "C" __global__ void ROW_BOUNDS transmit_back_phases(Arguments a, int slice) { return_through<true>(a, slice); }

// Columns: transpose of `enter`; derivatives of the modes and of the shifts. A block does several patterns.
extern "C" __global__ void COLUMN_BOUNDS leave(Arguments a) {
  int m = blockIdx.y, size = size_of(a);
  COLUMN_THREAD
  __shared__ float sums[2 * COLUMNS * TY];
  float2 sum[EY];
#pragma unroll
  for (int i = 0; i < EY; ++i) sum[i] = make_float2(0.0f, 0.0f);
  const float2* spectrum = a.spectrum + (long long)m * NY * NX + x;
  float f_x = float(x < (NX + 1) / 2 ? x : x - NX) / float(NX);
  for (int p = blockIdx.z; p < size; p += gridDim.z) {
    const float2* wave = a.wave + ((long long)(p * a.modes + m) * NY) * NX + x;
    float2 ramp = a.ramps_x[p * NX + x];
    float turned[2] = {0.0f, 0.0f};
#pragma unroll
    for (int i = 0; i < EY; ++i) v[i] = wave[(t + TY * i) * NX];
    transform_y<1>(v, t, room);
#pragma unroll
    for (int i = 0; i < EY; ++i) {
      int y = t + TY * i;
      float2 here = times(times(v[i], a.ramps_y[p * NY + y]), ramp), mode = spectrum[y * NX];
      sum[i].x += here.x;
      sum[i].y += here.y;
      float turn = here.x * mode.y + here.y * mode.x;
      turned[0] += turn * (float(y < (NY + 1) / 2 ? y : y - NY) / float(NY));
      turned[1] += turn * f_x;
    }
    add_block(turned, sums);
    if (threadIdx.x == 0)
      add_pair(a.rests + p, scaled(make_float2(turned[0], turned[1]), 6.283185307179586f));
  }
#pragma unroll
  for (int i = 0; i < EY; ++i) add_pair(a.spectrum_slope + ((long long)m * NY + t + TY * i) * NX + x, sum[i]);
}

__device__ inline bool is_seen(const Arguments& a, int size, int y, int x) {
  for (int p = 0; p < size; ++p) {
    int2 corner = a.corners[p];
    if (y >= corner.x && y < corner.x + NY && x >= corner.y && x < corner.y + NX) return true;
  }
  return false;
}

// Pixels of the object take their steps; see phaseloom.ptycho.newton.steps.PixelStep. A row of blocks a slice.
// Those in the rectangle of all windows do, or, where that is larger than the windows together, in any window.
extern "C" __global__ void step_object(Arguments a) {
  __shared__ float sums[256];
  int b = *a.batch, size = size_of(a), top = a.box[0], left = a.box[2];
  int height = a.box[1] - top, width = a.box[3] - left;
  bool together = (long long)height * width <= (long long)size * NY * NX;
  const float* knobs = a.knobs + KNOBS * b;
  float rate = knobs[0], pull = knobs[1], again = knobs[6], total[1] = {0.0f};
  float lone = a.lone[blockIdx.y] / float(size);
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < height * width; i += gridDim.x * blockDim.x) {
    int y = top + i / width, x = left + i % width;
    if (!together && !is_seen(a, size, y, x)) continue;
    long long at = ((long long)blockIdx.y * a.tall + y) * a.broad + x;
    float inverse = 1.0f / fmaxf(a.wide[at] * rate, lone);
    if (a.phases) {
      float slope = a.phase_slope[at], step = slope * inverse, speed = again * a.phase_speed[at] - step;
      float phase = a.phase[at] - step + again * speed;
      total[0] += slope;
      a.phase_speed[at] = speed;
      a.phase[at] = phase;
      a.phase_slope[at] = 0.0f;
      sincosf(phase, &a.object[at].y, &a.object[at].x);
      continue;
    }
    float2 slope = a.object_slope[at], value = a.object[at], speed = a.object_speed[at];
    float2 step = scaled(slope, inverse);
    total[0] += slope.x + slope.y;
    if (pull != 0.0f) {
      float modulus = fmaxf(sqrtf(value.x * value.x + value.y * value.y), 1e-30f);
      step = plus(step, scaled(minus(value, scaled(value, 1.0f / modulus)), pull));
    }
    speed = minus(scaled(speed, again), step);
    a.object_speed[at] = speed;
    a.object[at] = plus(minus(value, step), scaled(speed, again));
    a.object_slope[at] = make_float2(0.0f, 0.0f);
  }
  add_block(total, sums);
  if (threadIdx.x == 0) atomicAdd(a.found + FOUND * b + 1, double(total[0]));
}

// The modes take theirs: a step that is the same for all pixels is the same for all frequencies.
extern "C" __global__ void step_probe(Arguments a) {
  __shared__ float sums[256];
  int b = *a.batch, i = blockIdx.x * blockDim.x + threadIdx.x;
  float share = a.knobs[KNOBS * b + 2] * a.probe_unit, again = a.knobs[KNOBS * b + 6], total[1] = {0.0f};
  bool still = !moves(a.knobs[KNOBS * b + 2]);
  if (i < a.modes * NY * NX) {
    float2 slope = a.spectrum_slope[i];
    a.spectrum_slope[i] = make_float2(0.0f, 0.0f);
    if (!still) {
      float2 speed = a.spectrum_speed[i], value = a.spectrum[i];
      float2 step = make_float2(share * slope.x, -share * slope.y);
      total[0] = slope.x + slope.y;
      speed = minus(scaled(speed, again), step);
      a.spectrum_speed[i] = speed;
      a.spectrum[i] = plus(minus(value, step), scaled(speed, again));
    }
  }
  add_block(total, sums);
  if (threadIdx.x == 0) atomicAdd(a.found + FOUND * b + 2, double(total[0]));
}

// Positions and their map; the next batch is then the next one. One block.
extern "C" __global__ void step_positions(Arguments a) {
  __shared__ float sums[5 * 256];
  int b = *a.batch, size = size_of(a);
  const float* knobs = a.knobs + KNOBS * b;
  float share = knobs[3], prior = knobs[4], rate = knobs[5], again = knobs[6];
  float total[5] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f};  // derivatives of the map, and of the shifts
  for (int p = threadIdx.x; p < size; p += blockDim.x) {
    long long n = a.index[a.first[b] + p];
    float2 slope = a.rests[p], arm = scaled(a.arm[n], 1.0f / a.reach);
    total[0] += slope.x * arm.x;
    total[1] += slope.x * arm.y;
    total[2] += slope.y * arm.x;
    total[3] += slope.y * arm.y;
    if (!moves(share)) continue;
    float2 own = a.offsets[n], centre = a.centre[n];
    slope = scaled(slope, a.unit);
    total[4] += slope.x + slope.y;
    if (prior != 0.0f && (slope.x != 0.0f || slope.y != 0.0f)) slope = plus(slope, scaled(minus(own, centre), prior));
    float4 inverse = a.inverse[n];
    float down = share * (inverse.x * slope.x + inverse.y * slope.y);
    float right = share * (inverse.z * slope.x + inverse.w * slope.y);
    own.x -= fminf(fmaxf(down, -a.most_shift), a.most_shift);
    own.y -= fminf(fmaxf(right, -a.most_shift), a.most_shift);
    a.offsets[n] = own;
  }
  add_block(total, sums);
  if (threadIdx.x) return;
  a.found[FOUND * b + 3] = double(total[4]);
  if (moves(rate)) {
    for (int k = 0; k < 4; ++k) {
      float move = 0.0f;
      for (int j = 0; j < 4; ++j) move += a.affine_inverse[4 * k + j] * total[j];
      move = fminf(fmaxf(rate * move, -a.most_number), a.most_number);
      a.affine_speed[k] = again * a.affine_speed[k] - move;
      a.affine[k] += again * a.affine_speed[k] - move;
    }
    a.found[FOUND * b + 4] = double(total[0] + total[1] + total[2] + total[3]);
  }
  *a.batch = b + 1;
  for (int k = 0; k < 4; ++k) a.box[k] = k % 2 ? 0 : 1 << 30;
}
