// Where cuBLAS is looked for.
#include <dlfcn.h>
#include <glob.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "cuda/cublas_library.h"

namespace sas::cuda::cublas {
namespace {

#ifndef SAS_CUBLAS_PATH_DEFAULT
#define SAS_CUBLAS_PATH_DEFAULT ""
#endif

constexpr int kMajors[] = {13, 12};

std::string Variable(const char* name, const char* fallback = "") {
  const char* value = std::getenv(name);
  return value == nullptr ? fallback : value;
}

void AddMatches(const std::string& pattern, std::vector<std::string>* paths) {
  glob_t found{};
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) {
    paths->insert(paths->end(), found.gl_pathv, found.gl_pathv + found.gl_pathc);
  }
  globfree(&found);
}

// The environment of the `python3` on PATH, and those that it leads to by symbolic links: python is not run.
std::vector<std::string> PythonRoots() {
  std::vector<std::string> roots;
  const std::string path = Variable("PATH");
  for (size_t begin = 0; begin < path.size() && roots.empty();) {
    const size_t end = std::min(path.find(':', begin), path.size());
    std::error_code ignored;
    std::filesystem::path python = std::filesystem::path(path.substr(begin, end - begin)) / "python3";
    begin = end + 1;
    if (!std::filesystem::exists(python, ignored)) continue;
    for (int links = 0; links < 8; ++links) {
      roots.push_back(python.parent_path().parent_path().string());
      if (!std::filesystem::is_symlink(python, ignored)) break;
      python = python.parent_path() / std::filesystem::read_symlink(python, ignored);
    }
  }
  return roots;
}

// Folders that may hold the library; an empty name leaves the search to the loader.
std::vector<std::string> Folders() {
  std::vector<std::string> folders{""};
  for (const char* variable : {"CUDA_PATH", "CUDA_HOME"}) {
    if (const std::string root = Variable(variable); !root.empty()) folders.push_back(root + "/lib64");
  }
  folders.push_back("/usr/local/cuda/lib64");

  std::vector<std::string> packages;
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    const std::string root = Variable(variable);
    if (root.empty()) continue;
    folders.push_back(root + "/lib");
    AddMatches(root + "/lib/python3*/site-packages", &packages);
  }
  const std::string python_path = Variable("PYTHONPATH");
  for (size_t begin = 0; begin < python_path.size();) {
    const size_t end = std::min(python_path.find(':', begin), python_path.size());
    if (end > begin) packages.push_back(python_path.substr(begin, end - begin));
    begin = end + 1;
  }
  if (const std::string home = Variable("HOME"); !home.empty()) {
    AddMatches(home + "/.local/lib/python3*/site-packages", &packages);
  }
  for (const std::string& root : PythonRoots()) AddMatches(root + "/lib/python3*/site-packages", &packages);
  AddMatches("/usr/lib/python3*/dist-packages", &packages);
  AddMatches("/usr/local/lib/python3*/site-packages", &packages);
  AddMatches("/usr/local/lib/python3*/dist-packages", &packages);
  for (const std::string& root : packages) AddMatches(root + "/nvidia/*/lib", &folders);  // cublas, or cu13
  // PYTHONPATH=. and the like name the folder in which the program was started, whose content is not ours to execute.
  std::erase_if(folders, [](const std::string& folder) { return !folder.empty() && folder.front() != '/'; });
  return folders;
}

// Fills in every function, or says what is missing.
bool Bind(void* blas, void* light, Library* library, std::string* fault) {
  const auto bind = [&]<class Function>(void* from, const char* symbol, Function* function) {
    *function = reinterpret_cast<Function>(dlsym(from, symbol));
    if (*function == nullptr) *fault = std::string(symbol) + " is missing";
    return *function != nullptr;
  };
#define SAS_BIND(type, member, symbol, parameters) \
  if (!bind(blas, #symbol, &library->member)) return false;
  SAS_CUBLAS_FUNCTIONS(SAS_BIND)
#undef SAS_BIND
#define SAS_BIND(type, member, symbol, parameters) \
  if (!bind(light, #symbol, &library->member)) return false;
  SAS_CUBLASLT_FUNCTIONS(SAS_BIND)
#undef SAS_BIND
  return true;
}

// Loads `file` and the cuBLASLt beside it. A library that turns out not to fit stays loaded: its own libraries may be
// in use by others.
bool Load(const std::string& folder, const std::string& file, int major, Library* library, std::string* fault) {
  const auto open = [&](const std::string& path) {
    void* opened = dlopen(path.c_str(), RTLD_LAZY | RTLD_LOCAL);
    if (opened == nullptr) *fault = dlerror();
    return opened;
  };
  // cuBLAS needs cuBLASLt and finds it by name once it is loaded.
  void* light = open(folder + "libcublasLt.so." + std::to_string(major));
  if (light == nullptr) return false;
  void* blas = open(folder + file);
  if (blas == nullptr || !Bind(blas, light, library, fault)) return false;

  int version[3] = {};
  for (const int part : {kMajor, kMinor, kPatch}) {
    if (library->get_property(part, &version[part]) != kSuccess) *fault = "cublasGetProperty failed";
  }
  if (version[kMajor] != major) {
    *fault = "it is version " + std::to_string(version[kMajor]);
    return false;
  }
  Dl_info at{};
  dladdr(reinterpret_cast<const void*>(library->create), &at);
  library->description = "cuBLAS " + std::to_string(version[kMajor]) + "." + std::to_string(version[kMinor]) + "." +
                         std::to_string(version[kPatch]) + " (" + (at.dli_fname == nullptr ? file : at.dli_fname) + ")";
  return true;
}

bool IsFolder(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}
bool Exists(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0;
}

Library Find() {
  Library library;
  const std::string wanted = Variable("SAS_CUBLAS_PATH", SAS_CUBLAS_PATH_DEFAULT);
  if (wanted == "off") {
    library.description = "built-in (SAS_CUBLAS_PATH=off)";
    return library;
  }
  std::string fault;
  if (!wanted.empty() && !IsFolder(wanted)) {  // a file
    const size_t slash = wanted.rfind('/'), name = slash == std::string::npos ? 0 : slash + 1;
    for (const int major : kMajors) {
      if (wanted.find(".so." + std::to_string(major), name) == std::string::npos) continue;
      library.found = Load(wanted.substr(0, name), wanted.substr(name), major, &library, &fault);
      if (library.found) return library;
    }
    library.description = "built-in (SAS_CUBLAS_PATH=" + wanted + ": " +
                          (fault.empty() ? "expected a folder or libcublas.so.13 or .12" : fault) + ")";
    return library;
  }

  const std::vector<std::string> folders = wanted.empty() ? Folders() : std::vector<std::string>{wanted};
  std::string first_fault;  // of a library that is there
  for (const int major : kMajors) {
    const std::string file = "libcublas.so." + std::to_string(major);
    for (const std::string& name : folders) {
      const std::string folder = name.empty() ? "" : name + "/";
      if (!folder.empty() && !Exists(folder + file)) continue;
      library.found = Load(folder, file, major, &library, &fault);
      if (library.found) return library;
      if (!folder.empty() && first_fault.empty()) first_fault = folder + file + ": " + fault;
    }
  }
  library.description = "built-in (" + (first_fault.empty() ? "no libcublas.so.13 or .12 found" : first_fault) +
                        (wanted.empty() ? ")" : ", SAS_CUBLAS_PATH=" + wanted + ")");
  return library;
}

}  // namespace

const Library& TheLibrary() {
  static const Library library = Find();
  return library;
}

}  // namespace sas::cuda::cublas
