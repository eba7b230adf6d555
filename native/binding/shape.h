// The shape that a buffer's handle carries, and how an operation states those of its operands.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

namespace sas::binding {

struct Shape {
  static constexpr int kMaxRank = 8;  // as MAX_RANK of lib/checks.ts

  int rank = 0;
  int64_t sizes[kMaxRank] = {};

  int64_t elements() const;
  bool operator==(const Shape& other) const;
};

// The leading sizes of operands, any number of them: the first operand that has them tells them, and all others must
// have the same.
struct Leading {
  bool known = false;
  Shape shape;

  int64_t size() const { return known ? shape.elements() : 0; }
};

// One size of an operand's expected shape. A variable that is 0 is unknown: it takes the operand's size, and stands for
// that size from then on. What is no variable is the size itself.
class Extent {
 public:
  Extent(int64_t& variable) : variable_(&variable) {}
  Extent(const int64_t& size) : size_(size) {}
  Extent(Leading& leading) : leading_(&leading) {}

  Leading* leading() const { return leading_; }
  int64_t size() const { return variable_ != nullptr ? *variable_ : size_; }
  bool Take(int64_t size) const {
    if (variable_ != nullptr && *variable_ == 0) *variable_ = size;
    return this->size() == size;
  }

 private:
  int64_t* variable_ = nullptr;
  int64_t size_ = 0;
  Leading* leading_ = nullptr;
};

// Only the first may be Leading.
using ExpectedShape = std::initializer_list<Extent>;

// Whether the shape is the expected one, once unknown sizes are taken from it.
bool Take(const Shape& shape, ExpectedShape expected);

std::string Describe(const Shape& shape);
std::string Describe(ExpectedShape expected);

}  // namespace sas::binding
