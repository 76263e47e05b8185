// SQLite as objects that close themselves and throw Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

struct sqlite3;
struct sqlite3_stmt;

namespace switchyard {

enum class SqliteAccess { read, write, create };

// One connection, used by one thread at a time. Messages begin with "record store: " and the path.
class Sqlite {
 public:
  // A file that can only be read, in a folder that can only be read, is read as one that nobody changes.
  static Sqlite open(const std::filesystem::path& path, SqliteAccess access, int wait_ms);

  // Statements without parameters or results.
  void run(const char* sql) const;
  std::int64_t number(const char* sql) const;  // the first column of the first row
  bool in_transaction() const noexcept;
  std::int64_t last_id() const noexcept;
  const std::string& path() const noexcept { return path_; }
  sqlite3* handle() const noexcept { return handle_.get(); }

  [[noreturn]] void fail_with_status(int status) const;

 private:
  struct Close {
    void operator()(sqlite3* handle) const noexcept;
  };
  std::unique_ptr<sqlite3, Close> handle_;
  std::string path_;
};

// A prepared statement: bind in order, step, read columns, and again after reset().
class Statement {
 public:
  Statement(const Sqlite& database, const char* sql);

  // What is bound has to live until the statement is reset.
  template <class... Values>
  Statement& with(const Values&... values) {
    reset();
    int index = 0;
    (bind(++index, values), ...);
    return *this;
  }
  bool step();  // whether there is a row
  void run() {  // a statement without results
    step();
    reset();
  }
  void reset() noexcept;

  std::int64_t number(int column) const noexcept;
  std::string text(int column) const;
  bool is_null(int column) const noexcept;
  std::span<const std::byte> bytes(int column) const noexcept;  // until the next step or reset

 private:
  void bind(int index, std::int64_t value);
  void bind(int index, std::string_view value);
  void bind(int index, std::span<const std::byte> value);
  void bind(int index, const std::optional<std::int64_t>& value);
  void check(int status) const;

  struct Finalize {
    void operator()(sqlite3_stmt* statement) const noexcept;
  };
  const Sqlite* database_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

// What happens until keep() is kept, or undone: as a transaction of its own, or as a part of the one that is open.
class Savepoint {
 public:
  explicit Savepoint(const Sqlite& database);
  ~Savepoint();
  Savepoint(const Savepoint&) = delete;
  Savepoint& operator=(const Savepoint&) = delete;
  void keep();

 private:
  const Sqlite* database_;
  bool outermost_;
};

// One state of the file for everything that is read while it lives.
class ReadView {
 public:
  explicit ReadView(const Sqlite& database);
  ~ReadView();
  ReadView(const ReadView&) = delete;
  ReadView& operator=(const ReadView&) = delete;

 private:
  const Sqlite* database_;  // null: there is a transaction already
};

}  // namespace switchyard
