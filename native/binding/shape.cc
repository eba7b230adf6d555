#include "binding/shape.h"

#include <algorithm>

namespace sas::binding {
namespace {

std::string Join(const int64_t* sizes, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(sizes[i]);
  }
  return text;
}

}  // namespace

int64_t Shape::elements() const {
  int64_t product = 1;
  for (int i = 0; i < rank; ++i) product *= sizes[i];
  return product;
}

bool Shape::operator==(const Shape& other) const {
  return rank == other.rank && std::equal(sizes, sizes + rank, other.sizes);
}

bool Take(const Shape& shape, ExpectedShape expected) {
  const Extent* extent = expected.begin();
  int at = 0;
  if (extent != expected.end() && extent->leading() != nullptr) {
    Leading& leading = *extent++->leading();
    Shape front = shape;
    front.rank = shape.rank - static_cast<int>(expected.size()) + 1;
    if (front.rank < 0) return false;
    if (!leading.known) leading = {true, front};
    if (!(leading.shape == front)) return false;
    at = front.rank;
  }
  if (shape.rank - at != expected.end() - extent) return false;
  return std::all_of(extent, expected.end(), [&](const Extent& each) { return each.Take(shape.sizes[at++]); });
}

std::string Describe(const Shape& shape) { return '[' + Join(shape.sizes, shape.rank) + ']'; }

std::string Describe(ExpectedShape expected) {
  std::string text;
  for (const Extent& extent : expected) {
    if (const Leading* leading = extent.leading(); leading != nullptr) {
      text += leading->known ? Join(leading->shape.sizes, leading->shape.rank) : "...";
      continue;
    }
    if (!text.empty()) text += ", ";
    text += extent.size() == 0 ? "any" : std::to_string(extent.size());
  }
  return '[' + text + ']';
}

}  // namespace sas::binding
