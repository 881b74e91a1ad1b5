//! Access lists from and to the system, as SDDL text.

use std::fs::File;
use std::io;
use std::os::windows::fs::OpenOptionsExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr;

use windows_sys::Win32::Foundation::{
    ERROR_SUCCESS, GENERIC_WRITE, HLOCAL, INVALID_HANDLE_VALUE, LocalFree,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertSecurityDescriptorToStringSecurityDescriptorW, ConvertSidToStringSidW,
    ConvertStringSecurityDescriptorToSecurityDescriptorW, GetSecurityInfo, SDDL_REVISION_1,
    SE_FILE_OBJECT, SetSecurityInfo,
};
use windows_sys::Win32::Security::{
    ACL, DACL_SECURITY_INFORMATION, GetSecurityDescriptorDacl, GetTokenInformation,
    OWNER_SECURITY_INFORMATION, PROTECTED_DACL_SECURITY_INFORMATION, PSECURITY_DESCRIPTOR,
    SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{
    CREATE_NEW, CreateDirectoryW, CreateFileW, DELETE, FILE_ATTRIBUTE_NORMAL,
    FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT, FILE_READ_ATTRIBUTES,
    GetVolumeInformationByHandleW, READ_CONTROL, WRITE_DAC,
};
use windows_sys::Win32::System::SystemServices::FILE_PERSISTENT_ACLS;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, OpenProcessToken};

use super::wide;

/// Memory that the system has allocated.
struct Local(*mut core::ffi::c_void);

impl Drop for Local {
    fn drop(&mut self) {
        // SAFETY: it came from LocalAlloc and is freed once.
        unsafe { LocalFree(self.0 as HLOCAL) };
    }
}

impl Local {
    /// The text at the pointer, which ends in a NUL.
    fn text(&self) -> String {
        let start = self.0.cast::<u16>().cast_const();
        let mut length = 0;
        // SAFETY: the system ends its strings with a NUL, and everything before it is there.
        let units = unsafe {
            while *start.add(length) != 0 {
                length += 1;
            }
            std::slice::from_raw_parts(start, length)
        };
        String::from_utf16_lossy(units)
    }
}

fn descriptor(sddl: &str) -> io::Result<Local> {
    let sddl = wide(sddl.as_ref())?;
    let mut descriptor: PSECURITY_DESCRIPTOR = ptr::null_mut();
    // SAFETY: the text ends in a NUL; the descriptor is a place for one pointer.
    let made = unsafe {
        ConvertStringSecurityDescriptorToSecurityDescriptorW(
            sddl.as_ptr(),
            SDDL_REVISION_1,
            &raw mut descriptor,
            ptr::null_mut(),
        )
    };
    if made == 0 { Err(io::Error::last_os_error()) } else { Ok(Local(descriptor)) }
}

fn attributes(descriptor: &Local) -> SECURITY_ATTRIBUTES {
    SECURITY_ATTRIBUTES {
        nLength: u32::try_from(size_of::<SECURITY_ATTRIBUTES>()).unwrap_or_default(),
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    }
}

/// Makes a folder that has this list from its first moment.
pub(crate) fn create_folder(path: &Path, sddl: &str) -> io::Result<()> {
    let descriptor = descriptor(sddl)?;
    let attributes = attributes(&descriptor);
    let path = wide(path.as_os_str())?;
    // SAFETY: path and attributes live until the call returns.
    match unsafe { CreateDirectoryW(path.as_ptr(), &raw const attributes) } {
        0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Makes a file to write, which must not be there yet, with this list from its first moment, or with the
/// folder's. Nobody else can open it before it is closed.
pub(crate) fn create_file(path: &Path, sddl: Option<&str>) -> io::Result<File> {
    let descriptor = sddl.map(descriptor).transpose()?;
    let attributes = descriptor.as_ref().map(attributes);
    let path = wide(path.as_os_str())?;
    // SAFETY: path and attributes live until the call returns.
    let handle = unsafe {
        CreateFileW(
            path.as_ptr(),
            GENERIC_WRITE | DELETE,
            0,
            attributes.as_ref().map_or(ptr::null(), ptr::from_ref),
            CREATE_NEW,
            FILE_ATTRIBUTE_NORMAL | FILE_FLAG_OPEN_REPARSE_POINT,
            ptr::null_mut(),
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new handle that nobody else has.
    Ok(unsafe { File::from_raw_handle(handle) })
}

/// Gives what is at `path` itself this list, in place of its own and of what it has from the folder above.
pub(crate) fn protect(path: &Path, sddl: &str) -> io::Result<()> {
    let descriptor = descriptor(sddl)?;
    let mut list: *mut ACL = ptr::null_mut();
    let (mut present, mut defaulted) = (0, 0);
    // SAFETY: the descriptor is the system's own; the list points into it.
    let found = unsafe {
        GetSecurityDescriptorDacl(descriptor.0, &raw mut present, &raw mut list, &raw mut defaulted)
    };
    // No list at all would allow everything.
    if found == 0 || present == 0 || list.is_null() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let file = open(path, READ_CONTROL | WRITE_DAC)?;
    // SAFETY: the handle and the list live until the call returns.
    let status = unsafe {
        SetSecurityInfo(
            file.as_raw_handle(),
            SE_FILE_OBJECT,
            DACL_SECURITY_INFORMATION | PROTECTED_DACL_SECURITY_INFORMATION,
            ptr::null_mut(),
            ptr::null_mut(),
            list,
            ptr::null(),
        )
    };
    done(status)
}

/// Owner and list of what is at `path` itself.
pub(crate) fn list(path: &Path) -> io::Result<String> {
    let file = open(path, READ_CONTROL)?;
    let mut descriptor: PSECURITY_DESCRIPTOR = ptr::null_mut();
    let wanted = OWNER_SECURITY_INFORMATION | DACL_SECURITY_INFORMATION;
    // SAFETY: the handle lives until the call returns; only the descriptor is asked for.
    let status = unsafe {
        GetSecurityInfo(
            file.as_raw_handle(),
            SE_FILE_OBJECT,
            wanted,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            &raw mut descriptor,
        )
    };
    done(status)?;
    let descriptor = Local(descriptor);
    let mut text = ptr::null_mut();
    // SAFETY: the descriptor is the system's own; the text is a place for one pointer.
    let written = unsafe {
        ConvertSecurityDescriptorToStringSecurityDescriptorW(
            descriptor.0,
            SDDL_REVISION_1,
            wanted,
            &raw mut text,
            ptr::null_mut(),
        )
    };
    if written == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Local(text.cast()).text())
}

/// Whether the file system of a folder keeps access lists.
pub(crate) fn has_lists(folder: &Path) -> io::Result<bool> {
    let file = open(folder, FILE_READ_ATTRIBUTES)?;
    let mut flags = 0;
    // SAFETY: the handle lives until the call returns; only the flags are asked for.
    let known = unsafe {
        GetVolumeInformationByHandleW(
            file.as_raw_handle(),
            ptr::null_mut(),
            0,
            ptr::null_mut(),
            ptr::null_mut(),
            &raw mut flags,
            ptr::null_mut(),
            0,
        )
    };
    if known == 0 { Err(io::Error::last_os_error()) } else { Ok(flags & FILE_PERSISTENT_ACLS != 0) }
}

/// The account we run as (`S-1-...`).
pub(crate) fn ourselves() -> io::Result<String> {
    let mut token = ptr::null_mut();
    // SAFETY: the process's own pseudo handle; the token is a place for one handle.
    if unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) } == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new handle that nobody else has.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    // A SID has at most 68 bytes and stands behind the structure; u64 for its alignment.
    let mut buffer = [0_u64; 16];
    let mut length = 0;
    // SAFETY: the buffer has the size that is told.
    let known = unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            TokenUser,
            buffer.as_mut_ptr().cast(),
            u32::try_from(size_of_val(&buffer)).unwrap_or_default(),
            &raw mut length,
        )
    };
    if known == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the system has filled in a TOKEN_USER, and the buffer is aligned for one.
    let user = unsafe { &*buffer.as_ptr().cast::<TOKEN_USER>() };
    let mut text = ptr::null_mut();
    // SAFETY: the SID points into the buffer; the text is a place for one pointer.
    if unsafe { ConvertSidToStringSidW(user.User.Sid, &raw mut text) } == 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Local(text.cast()).text())
}

fn open(path: &Path, access: u32) -> io::Result<File> {
    std::fs::OpenOptions::new()
        .access_mode(access)
        .custom_flags(FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS)
        .open(path)
}

fn done(status: u32) -> io::Result<()> {
    match status {
        ERROR_SUCCESS => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.cast_signed())),
    }
}
