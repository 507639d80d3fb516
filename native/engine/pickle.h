// What torch.save writes, read without running any of it: a zip archive with a pickle that names tensors, and their data.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "mapped_file.h"
#include "tensor_file.h"

namespace credence {

/// The bytes of a storage by its key; a key that the file does not hold throws.
using StorageOf = std::function<std::string_view(std::string_view key)>;

/// The tensors that a pickle describes, in its order: those in dictionaries under their keys joined by dots, those in
/// lists and tuples under their positions. What else stands there (numbers, strings) is left out.
///
/// The pickle is a program for Python's unpickler, which may call anything. Here it may build dictionaries, lists, numbers
/// and strings, and call the four functions that make tensors; the first other name it asks for throws Error
/// "UNSUPPORTED" with that name, before anything else is read. `path` is for messages.
std::vector<TensorView> pickled_tensors(std::string_view pickle, const StorageOf& storage_of, const std::string& path);

/// pytorch_model.bin, adapter_model.bin, head.pt: what PyTorch 1.6 and later write.
class PickleFile final : public TensorFile {
 public:
  explicit PickleFile(const std::string& path);
  const std::string& path() const override { return file_.path(); }

 private:
  MappedFile file_;
};

}  // namespace credence
