// Large buffers of zeros that cost nothing until they are touched.
#include <ATen/ATen.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace advgame {

// Float32 zeros straight from the kernel, in huge pages: no pass over the memory to clear it, a five-hundredth of the
// page faults, and pages that are never written (rows of a sparse gradient) never become real.
at::Tensor lazy_zeros(at::IntArrayRef shape) {
#if defined(__linux__)
  const int64_t bytes = c10::multiply_integers(shape) * sizeof(float);
  if (bytes >= 1 << 22) {
    const size_t size = bytes + (1 << 21);  // to begin on a huge page
    void* start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    TORCH_CHECK(start != MAP_FAILED, "out of memory: could not map ", size, " bytes");
    const uintptr_t page = 1 << 21;
    void* aligned = reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(start) + page - 1) / page * page);
    madvise(aligned, bytes, MADV_HUGEPAGE);
    return at::from_blob(aligned, shape, [start, size](void*) { munmap(start, size); }, at::kFloat);
  }
#endif
  return at::zeros(shape, at::kFloat);
}

}  // namespace advgame
