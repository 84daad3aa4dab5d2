//! The layer below SQLite: its own file system interface, with a look at what goes
//! through.
//!
//! It becomes the process's default and passes everything on to the one that was
//! the default before. Files in a watched folder are noted on their way; all others
//! get the methods of the real one and never come back here.

use super::{Off, Op, State, lock};
use rusqlite::ffi;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

type Shared = Arc<Mutex<State>>;

/// The folders that are watched.
static WATCHED: Mutex<Vec<(PathBuf, Shared)>> = Mutex::new(Vec::new());

/// The interface below, and ours.
struct Layers {
    real: *mut ffi::sqlite3_vfs,
}

// SAFETY: SQLite's interface objects live as long as the process, and are read only
// once they are registered.
unsafe impl Send for Layers {}
// SAFETY: as above.
unsafe impl Sync for Layers {}

static LAYERS: OnceLock<Layers> = OnceLock::new();

/// The start of a watched file's memory, which SQLite allocates; the real file's
/// follows.
#[repr(C)]
struct File {
    methods: *const ffi::sqlite3_io_methods,
    watched: *mut Watched,
}

struct Watched {
    path: PathBuf,
    state: Shared,
}

const OWN_SIZE: usize = size_of::<File>();

pub(super) fn watch(folder: &Path, state: &Shared) {
    LAYERS.get_or_init(register);
    lock(&WATCHED).push((folder.to_owned(), Arc::clone(state)));
}

pub(super) fn leave(folder: &Path) {
    lock(&WATCHED).retain(|(watched, _)| watched != folder);
}

fn register() -> Layers {
    // SAFETY: without arguments, and may be called at any time.
    unsafe { ffi::sqlite3_initialize() };
    // SAFETY: no name asks for the default, which is there once SQLite is initialised.
    let real = unsafe { ffi::sqlite3_vfs_find(std::ptr::null()) };
    assert!(!real.is_null(), "SQLite has a file system");
    // SAFETY: it is never changed nor freed.
    let mut ours = unsafe { *real };
    ours.zName = c"oversync-disk".as_ptr();
    ours.pNext = std::ptr::null_mut();
    ours.szOsFile += c_int::try_from(OWN_SIZE).expect("small");
    ours.xOpen = Some(open);
    ours.xDelete = Some(delete);
    let ours = Box::leak(Box::new(ours));
    // SAFETY: it lives as long as the process.
    let done = unsafe { ffi::sqlite3_vfs_register(ours, 1) };
    assert_eq!(done, ffi::SQLITE_OK, "registered");
    Layers { real }
}

fn real_vfs() -> *mut ffi::sqlite3_vfs {
    LAYERS.get().expect("registered before it is called").real
}

/// Who watches a file, if anybody does.
///
/// # Safety
/// `name` is null or a C string.
unsafe fn watcher(name: *const c_char) -> Option<Watched> {
    if name.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    let path = Path::new(OsStr::from_bytes(name.to_bytes()));
    let all = lock(&WATCHED);
    let (_, state) = all
        .iter()
        .find(|(folder, _)| path.parent() == Some(folder))?;
    Some(Watched {
        path: path.to_owned(),
        state: Arc::clone(state),
    })
}

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let real = real_vfs();
    // SAFETY: as SQLite calls it.
    let watched = unsafe { watcher(name) };
    // SAFETY: the real interface has this method.
    let real_open = unsafe { (*real).xOpen }.expect("xOpen");
    let Some(watched) = watched else {
        // SAFETY: passed on as it came; our files are larger than the real ones.
        return unsafe { real_open(real, name, file, flags, out) };
    };
    // SAFETY: SQLite has allocated `szOsFile` bytes, ours and the real file's.
    let below = unsafe { real_file(file) };
    lock(&watched.state).opened(&watched.path);
    // SAFETY: passed on, with the part of the memory that is the real file's.
    let done = unsafe { real_open(real, name, below, flags, out) };
    let own = file.cast::<File>();
    // SAFETY: the start of that memory is ours; SQLite aligns it to 8 bytes.
    unsafe {
        if done == ffi::SQLITE_OK {
            (*own).watched = Box::into_raw(Box::new(watched));
            (*own).methods = &raw const METHODS;
        } else {
            (*own).methods = std::ptr::null();
        }
    }
    done
}

unsafe extern "C" fn delete(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_folder: c_int,
) -> c_int {
    // SAFETY: as SQLite calls it.
    if let Some(watched) = unsafe { watcher(name) } {
        let noted = lock(&watched.state).delete(&watched.path, sync_folder != 0);
        if noted.is_err() {
            return ffi::SQLITE_IOERR_DELETE;
        }
    }
    let real = real_vfs();
    // SAFETY: passed on as it came.
    unsafe { (*real).xDelete.expect("xDelete")(real, name, sync_folder) }
}

/// # Safety
/// `file` is the start of a watched file's memory.
unsafe fn real_file(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: SQLite allocates `szOsFile` bytes, which is OWN_SIZE more than the real
    // file needs.
    unsafe { file.byte_add(OWN_SIZE) }
}

/// Notes something that is about to happen to a file.
///
/// # Safety
/// `file` is a watched file that is open.
unsafe fn note(
    file: *mut ffi::sqlite3_file,
    note: impl FnOnce(&mut State, &Path) -> Result<(), Off>,
) -> Result<(), Off> {
    // SAFETY: `open` has put it there, and `close` takes it away.
    let watched = unsafe { &*(*file.cast::<File>()).watched };
    note(&mut lock(&watched.state), &watched.path)
}

/// Passes a call on to the real file.
macro_rules! pass_on {
    ($method:ident, $file:expr $(, $argument:expr)*) => {{
        // SAFETY: SQLite calls the methods of a file that is open; the real file is
        // behind ours, and its methods are called as ours is.
        unsafe {
            let below = real_file($file);
            ((*(*below).pMethods).$method.expect("a method of the real file"))(below $(, $argument)*)
        }
    }};
}

/// Methods that only pass on.
macro_rules! passed_on {
    ($($name:ident = $method:ident ($($argument:ident: $kind:ty),*) $(-> $answer:ty)?;)+) => {$(
        unsafe extern "C" fn $name(
            file: *mut ffi::sqlite3_file $(, $argument: $kind)*
        ) $(-> $answer)? {
            pass_on!($method, file $(, $argument)*)
        }
    )+};
}

passed_on! {
    read = xRead(into: *mut c_void, amount: c_int, at: ffi::sqlite3_int64) -> c_int;
    file_size = xFileSize(size: *mut ffi::sqlite3_int64) -> c_int;
    file_lock = xLock(level: c_int) -> c_int;
    unlock = xUnlock(level: c_int) -> c_int;
    check_reserved = xCheckReservedLock(out: *mut c_int) -> c_int;
    control = xFileControl(what: c_int, argument: *mut c_void) -> c_int;
    sector_size = xSectorSize() -> c_int;
    characteristics = xDeviceCharacteristics() -> c_int;
    shm_map = xShmMap(page: c_int, size: c_int, extend: c_int, out: *mut *mut c_void) -> c_int;
    shm_lock = xShmLock(offset: c_int, count: c_int, flags: c_int) -> c_int;
    shm_barrier = xShmBarrier();
    shm_unmap = xShmUnmap(delete: c_int) -> c_int;
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    let done = pass_on!(xClose, file);
    let own = file.cast::<File>();
    // SAFETY: `open` has put it there, and nothing uses the file after this.
    drop(unsafe { Box::from_raw((*own).watched) });
    // SAFETY: our memory; SQLite asks whether a file is open by its methods.
    unsafe { (*own).methods = std::ptr::null() };
    done
}

unsafe extern "C" fn write(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    amount: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    let length = usize::try_from(amount).expect("SQLite writes something");
    // SAFETY: SQLite hands over that many bytes.
    let bytes = unsafe { std::slice::from_raw_parts(from.cast::<u8>(), length) };
    let op = Op::Write {
        at: usize::try_from(at).expect("a place in a file"),
        bytes: bytes.to_vec(),
    };
    // SAFETY: a file of ours.
    match unsafe { note(file, |state, path| state.note(path, op)) } {
        Ok(()) => pass_on!(xWrite, file, from, amount, at),
        Err(Off) => ffi::SQLITE_IOERR_WRITE,
    }
}

unsafe extern "C" fn truncate(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    let op = Op::Truncate(usize::try_from(size).expect("a size"));
    // SAFETY: a file of ours.
    match unsafe { note(file, |state, path| state.note(path, op)) } {
        Ok(()) => pass_on!(xTruncate, file, size),
        Err(Off) => ffi::SQLITE_IOERR_TRUNCATE,
    }
}

unsafe extern "C" fn sync(file: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    // Noted, and not done: nobody cuts the real power.
    // SAFETY: a file of ours.
    match unsafe { note(file, State::sync) } {
        Ok(()) => ffi::SQLITE_OK,
        Err(Off) => ffi::SQLITE_IOERR_FSYNC,
    }
}

/// Without `xFetch`: what is mapped could be written past us.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(file_lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved),
    xFileControl: Some(control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};
