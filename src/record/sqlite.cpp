#include "record/sqlite.hpp"

#include <sqlite3.h>

#include <system_error>

#include "fail.hpp"
#include "format_text.hpp"

namespace switchyard {
namespace {

Code code_of(int status) noexcept {
  switch (status & 0xff) {
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return Code::bad_data;
    case SQLITE_NOMEM:
      return Code::out_of_memory;
    case SQLITE_ERROR:
    case SQLITE_MISUSE:
    case SQLITE_INTERNAL:
    case SQLITE_MISMATCH:
    case SQLITE_RANGE:
      return Code::internal;
    default:
      return Code::io;
  }
}

// A file: address; what has a meaning in one is escaped.
std::string unchanging_address(const std::filesystem::path& path) {
  std::string address = "file:";
  for (const char c : std::filesystem::absolute(path).string()) {
    if (c == '%' || c == '?' || c == '#') {
      address += format_text("%{:02x}", static_cast<unsigned>(c));
    } else {
      address += c;
    }
  }
  return address + "?immutable=1";
}

int flags_of(SqliteAccess access) noexcept {
  switch (access) {
    case SqliteAccess::read:
      return SQLITE_OPEN_READONLY;
    case SqliteAccess::write:
      return SQLITE_OPEN_READWRITE;
    case SqliteAccess::create:
      return SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  }
  return SQLITE_OPEN_READONLY;
}

}  // namespace

void Sqlite::Close::operator()(sqlite3* handle) const noexcept { sqlite3_close_v2(handle); }

Sqlite Sqlite::open(const std::filesystem::path& path, SqliteAccess access, int wait_ms) {
  Sqlite database;
  database.path_ = path.string();
  const auto connect = [&](const std::string& name, int flags) {
    sqlite3* handle = nullptr;
    const int status = sqlite3_open_v2(name.c_str(), &handle, flags | SQLITE_OPEN_NOMUTEX, nullptr);
    database.handle_.reset(handle);
    if (status != SQLITE_OK) {
      fail(code_of(status), "record store: {}: cannot be opened: {}", database.path_,
           handle != nullptr ? sqlite3_errmsg(handle) : sqlite3_errstr(status));
    }
    sqlite3_extended_result_codes(handle, 1);
    sqlite3_busy_timeout(handle, wait_ms);
  };
  connect(database.path_, flags_of(access));
  if (access != SqliteAccess::read) return database;
  const int status = sqlite3_exec(database.handle(), "PRAGMA schema_version", nullptr, nullptr, nullptr) & 0xff;
  std::error_code ignored;
  const std::filesystem::path log = path.string() + "-wal";
  const bool has_log = std::filesystem::exists(log, ignored) && std::filesystem::file_size(log, ignored) > 0;
  if ((status == SQLITE_CANTOPEN || status == SQLITE_READONLY) && !has_log) {
    connect(unchanging_address(path), SQLITE_OPEN_READONLY | SQLITE_OPEN_URI);
  }
  return database;
}

void Sqlite::fail_with_status(int status) const {
  const char* hint = (status & 0xff) == SQLITE_BUSY ? ": another process writes it" : "";
  fail(code_of(status), "record store: {}: {}{}", path_, sqlite3_errmsg(handle()), hint);
}

void Sqlite::run(const char* sql) const {
  const int status = sqlite3_exec(handle(), sql, nullptr, nullptr, nullptr);
  if (status != SQLITE_OK) fail_with_status(status);
}

std::int64_t Sqlite::number(const char* sql) const {
  Statement statement(*this, sql);
  return statement.step() ? statement.number(0) : 0;
}

bool Sqlite::in_transaction() const noexcept { return sqlite3_get_autocommit(handle()) == 0; }

std::int64_t Sqlite::last_id() const noexcept { return sqlite3_last_insert_rowid(handle()); }

void Statement::Finalize::operator()(sqlite3_stmt* statement) const noexcept { sqlite3_finalize(statement); }

Statement::Statement(const Sqlite& database, const char* sql) : database_(&database) {
  sqlite3_stmt* statement = nullptr;
  check(sqlite3_prepare_v3(database.handle(), sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr));
  statement_.reset(statement);
}

void Statement::check(int status) const {
  if (status != SQLITE_OK) database_->fail_with_status(status);
}

void Statement::bind(int index, std::int64_t value) { check(sqlite3_bind_int64(statement_.get(), index, value)); }

void Statement::bind(int index, std::string_view value) {
  check(sqlite3_bind_text64(statement_.get(), index, value.data(), value.size(), SQLITE_STATIC, SQLITE_UTF8));
}

void Statement::bind(int index, std::span<const std::byte> value) {
  if (value.empty()) return check(sqlite3_bind_zeroblob(statement_.get(), index, 0));  // null data would be NULL
  check(sqlite3_bind_blob64(statement_.get(), index, value.data(), value.size(), SQLITE_STATIC));
}

void Statement::bind(int index, const std::optional<std::int64_t>& value) {
  check(value ? sqlite3_bind_int64(statement_.get(), index, *value) : sqlite3_bind_null(statement_.get(), index));
}

bool Statement::step() {
  const int status = sqlite3_step(statement_.get());
  if (status == SQLITE_ROW) return true;
  if (status == SQLITE_DONE) return false;
  try {
    database_->fail_with_status(status);
  } catch (...) {
    reset();  // an open statement would keep its transaction open
    throw;
  }
}

void Statement::reset() noexcept { sqlite3_reset(statement_.get()); }

std::int64_t Statement::number(int column) const noexcept { return sqlite3_column_int64(statement_.get(), column); }

std::string Statement::text(int column) const {
  const auto* data = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
  return data == nullptr ? std::string()
                         : std::string(data, static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column)));
}

bool Statement::is_null(int column) const noexcept {
  return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL;
}

std::span<const std::byte> Statement::bytes(int column) const noexcept {
  const auto* data = static_cast<const std::byte*>(sqlite3_column_blob(statement_.get(), column));
  return {data, static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column))};
}

Savepoint::Savepoint(const Sqlite& database) : database_(&database), outermost_(!database.in_transaction()) {
  database.run(outermost_ ? "BEGIN IMMEDIATE" : "SAVEPOINT step");
}

Savepoint::~Savepoint() {
  // After an error of the disk SQLite may have undone the whole transaction already.
  if (database_ == nullptr || !database_->in_transaction()) return;
  const char* undo = outermost_ ? "ROLLBACK" : "ROLLBACK TO step; RELEASE step";
  sqlite3_exec(database_->handle(), undo, nullptr, nullptr, nullptr);
}

void Savepoint::keep() {
  database_->run(outermost_ ? "COMMIT" : "RELEASE step");
  database_ = nullptr;
}

ReadView::ReadView(const Sqlite& database) : database_(database.in_transaction() ? nullptr : &database) {
  if (database_ != nullptr) database_->run("BEGIN");
}

ReadView::~ReadView() {
  if (database_ != nullptr) sqlite3_exec(database_->handle(), "COMMIT", nullptr, nullptr, nullptr);
}

}  // namespace switchyard
