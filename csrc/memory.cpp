// A pool of large float32 buffers. One that is freed is kept for the next call, as in a GPU's caching allocator: on a
// CPU the page faults of fresh memory can cost as much as the GEMM whose result goes there. A request takes the
// smallest buffer that is large enough; if none is, the largest is released and a new one is mapped.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <c10/util/safe_numerics.h>

#include <cstring>
#include <map>
#include <mutex>
#include <tuple>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace advgame {
namespace {

constexpr size_t kHugePage = 1 << 21;

// Freed blocks by size. The pool is never destroyed: tensors may outlive every static object.
struct Pool {
  std::mutex mutex;
  std::multimap<size_t, void*> blocks;
};

Pool& pool() {
  static Pool* instance = new Pool;
  return *instance;
}

#if defined(__linux__)
// Fresh zeros from the operating system, aligned to a huge page.
void* map_pages(size_t bytes) {
  void* start = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  TORCH_CHECK(start != MAP_FAILED, "out of memory: could not map ", bytes, " bytes");
  const uintptr_t address = reinterpret_cast<uintptr_t>(start);
  const uintptr_t aligned = (address + kHugePage - 1) / kHugePage * kHugePage;
  if (aligned > address) munmap(start, aligned - address);
  if (const size_t rest = address + kHugePage - aligned) munmap(reinterpret_cast<void*>(aligned + bytes), rest);
  madvise(reinterpret_cast<void*>(aligned), bytes, MADV_HUGEPAGE);
  return reinterpret_cast<void*>(aligned);
}

void clear(void* block, size_t bytes) {
  at::parallel_for(0, bytes, kHugePage,
                   [&](size_t begin, size_t end) { std::memset(static_cast<char*>(block) + begin, 0, end - begin); });
}
#endif

}  // namespace

// A float32 tensor from the pool, zeroed on request. Small tensors, and all of them on systems other than Linux, come
// from the ordinary allocator.
at::Tensor pooled(at::IntArrayRef shape, bool zeroed) {
#if defined(__linux__)
  uint64_t numbers = 0;
  for (const int64_t size : shape) TORCH_CHECK_VALUE(size >= 0, "shape: negative size in ", shape);
  TORCH_CHECK_VALUE(!c10::safe_multiplies_u64(shape, &numbers) && numbers < uint64_t(1) << 60,
                    "shape: too large: ", shape);
  const size_t wanted = numbers * sizeof(float);
  if (wanted >= 2 * kHugePage) {
    size_t bytes = (wanted + kHugePage - 1) / kHugePage * kHugePage;
    void* block = nullptr;
    {
      std::lock_guard lock(pool().mutex);
      auto& blocks = pool().blocks;
      if (auto found = blocks.lower_bound(bytes); found != blocks.end()) {
        std::tie(bytes, block) = *found;
        blocks.erase(found);
      } else if (!blocks.empty()) {
        munmap(blocks.rbegin()->second, blocks.rbegin()->first);
        blocks.erase(std::prev(blocks.end()));
      }
    }
    if (block == nullptr) {
      block = map_pages(bytes);
    } else if (zeroed) {
      clear(block, wanted);
    }
    const auto give_back = [bytes](void* p) {
      std::lock_guard lock(pool().mutex);
      pool().blocks.emplace(bytes, p);
    };
    return at::from_blob(block, shape, give_back, at::kFloat);
  }
#endif
  return zeroed ? at::zeros(shape, at::kFloat) : at::empty(shape, at::kFloat);
}

// Returns every block that is not in use to the system.
void empty_pool() {
#if defined(__linux__)
  std::lock_guard lock(pool().mutex);
  for (const auto& [bytes, block] : pool().blocks) munmap(block, bytes);
  pool().blocks.clear();
#endif
}

}  // namespace advgame
