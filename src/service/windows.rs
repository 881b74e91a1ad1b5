//! The service manager: registering, removing, and running under it.
//!
//! A running service is stopped by the manager's Stop or by the machine's shutdown. Both cancel the very
//! token that Ctrl-C cancels. A service has no console, so stderr goes to a file when one is named.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::windows::io::IntoRawHandle;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use windows_service::service::{
    ServiceAccess, ServiceAction, ServiceActionType, ServiceControl, ServiceControlAccept,
    ServiceErrorControl, ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod,
    ServiceInfo, ServiceStartType, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{
    self, ServiceControlHandlerResult, ServiceStatusHandle,
};
use windows_service::service_dispatcher;
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_sys::Win32::System::Console::{STD_ERROR_HANDLE, STD_OUTPUT_HANDLE, SetStdHandle};

use super::{Registration, earlier_log};
use crate::error::{Code, Error, Result};
use crate::process;

/// Pauses before a service that has ended by itself is started again; the last one repeats.
const RESTARTS: [Duration; 3] =
    [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(60)];
/// A service that has run so long begins with the first pause again.
const FORGIVEN: Duration = Duration::from_secs(60 * 60);
/// What a stop may take: the drain's 25 s, and more.
const STOPPING: Duration = Duration::from_secs(35);
/// A log that has grown beyond this begins anew at the next start.
const MAX_LOG: u64 = 16 * 1024 * 1024;

/// What [`run`] is asked for, for the function that the manager calls.
struct Run {
    name: String,
    log: Option<PathBuf>,
    work: Box<dyn FnOnce() -> Result<()> + Send>,
}

static RUN: Mutex<Option<Run>> = Mutex::new(None);
static OUTCOME: Mutex<Result<()>> = Mutex::new(Ok(()));

/// Registers the service: started with the machine, a while after everything else, and again when it fails.
///
/// # Errors
/// The service manager refuses: not an administrator, or the service is there already.
pub(crate) fn install(registration: Registration) -> Result<()> {
    let failed = |what: &str, error: windows_service::Error| failed(what, &error);
    let manager = ServiceManager::local_computer(
        None::<&str>,
        ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE,
    )
    .map_err(|error| failed("ask the service manager", error))?;
    let executable_path = std::env::current_exe().map_err(|error| {
        Error::new(Code::Local, format!("the path of akvfs is not known: {}", error.kind()))
    })?;
    let info = ServiceInfo {
        name: registration.name.clone().into(),
        display_name: format!("Azure Key Vault as files ({})", registration.name).into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path,
        launch_arguments: registration.arguments,
        dependencies: vec![],
        account_name: registration.account.map(OsString::from),
        account_password: None,
    };
    // Changing the failure actions to a restart asks for the right to start.
    let access = ServiceAccess::CHANGE_CONFIG | ServiceAccess::START | ServiceAccess::DELETE;
    let service = manager
        .create_service(&info, access)
        .map_err(|error| failed("register the service", error))?;
    let restart = |delay| ServiceAction { action_type: ServiceActionType::Restart, delay };
    let configured = service
        .set_delayed_auto_start(true)
        .and_then(|()| service.set_description("Writes Azure Key Vault objects as files"))
        .and_then(|()| {
            service.update_failure_actions(ServiceFailureActions {
                reset_period: ServiceFailureResetPeriod::After(FORGIVEN),
                reboot_msg: None,
                command: None,
                actions: Some(RESTARTS.map(restart).to_vec()),
            })
        })
        // Also when it ends by itself with an error.
        .and_then(|()| service.set_failure_actions_on_non_crash_failures(true));
    configured.map_err(|error| {
        // Half a service would be worse than none.
        let _ = service.delete();
        failed("set up the service", error)
    })
}

/// Stops the service when it runs, and removes it.
///
/// # Errors
/// The service manager refuses.
pub(crate) fn uninstall(name: &str) -> Result<()> {
    let failed = |what: &str, error: windows_service::Error| failed(what, &error);
    let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT)
        .map_err(|error| failed("ask the service manager", error))?;
    let access = ServiceAccess::STOP | ServiceAccess::QUERY_STATUS | ServiceAccess::DELETE;
    let service =
        manager.open_service(name, access).map_err(|error| failed("find the service", error))?;
    // Marked first: it goes when it has ended, whatever happens to us.
    service.delete().map_err(|error| failed("remove the service", error))?;
    let running = service.query_status().map_err(|error| failed("ask the service", error))?;
    if running.current_state != ServiceState::Stopped {
        service.stop().map_err(|error| failed("stop the service", error))?;
    }
    Ok(())
}

/// Runs `work` under the service manager, until it ends.
///
/// # Errors
/// Those of `work`, or when this was not started by the service manager.
pub(crate) fn run(
    name: &str,
    log: Option<&Path>,
    work: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<()> {
    let run = Run { name: name.to_owned(), log: log.map(Path::to_owned), work: Box::new(work) };
    *RUN.lock().unwrap_or_else(PoisonError::into_inner) = Some(run);
    service_dispatcher::start(name, service_main)
        .map_err(|error| failed("run as a service", &error))?;
    OUTCOME.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

windows_service::define_windows_service!(service_main, in_service);

/// On a thread of the service manager.
fn in_service(_: Vec<OsString>) {
    let Some(run) = RUN.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
    let outcome = serve(run);
    *OUTCOME.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
}

fn serve(run: Run) -> Result<()> {
    let logged = run.log.as_deref().map(log_to).transpose();
    let stop = process::stop_of_service();
    let handler = {
        let stop = stop.clone();
        move |control| match control {
            ServiceControl::Stop | ServiceControl::Shutdown => {
                stop.cancel();
                ServiceControlHandlerResult::NoError
            }
            ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
            _ => ServiceControlHandlerResult::NotImplemented,
        }
    };
    let status = service_control_handler::register(&run.name, handler)
        .map_err(|error| failed("speak to the service manager", &error))?;
    if let Err(error) = logged {
        tell(status, ServiceState::Stopped, 1)?;
        return Err(Error::new(Code::Local, format!("the log cannot be written: {error}")));
    }
    tell(status, ServiceState::Running, 0)?;
    let (ended, told) = std::sync::mpsc::channel::<()>();
    let stopping = std::thread::spawn(move || {
        // Looked at, and not waited for: the thread must end with the work as well.
        while told.recv_timeout(Duration::from_millis(200))
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            if stop.is_cancelled() {
                let _ = tell(status, ServiceState::StopPending, 0);
                return;
            }
        }
    });
    let outcome = (run.work)();
    drop(ended);
    let _ = stopping.join();
    if let Err(error) = &outcome {
        tracing::error!(err = %error, "the service has failed");
    }
    tell(status, ServiceState::Stopped, u32::from(outcome.is_err()))?;
    outcome
}

fn tell(status: ServiceStatusHandle, state: ServiceState, failure: u32) -> Result<()> {
    let running = state == ServiceState::Running;
    let accepted = ServiceControlAccept::STOP | ServiceControlAccept::SHUTDOWN;
    let told = status.set_service_status(ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state: state,
        controls_accepted: if running { accepted } else { ServiceControlAccept::empty() },
        exit_code: match failure {
            0 => ServiceExitCode::NO_ERROR,
            code => ServiceExitCode::ServiceSpecific(code),
        },
        checkpoint: 0,
        wait_hint: if state == ServiceState::StopPending { STOPPING } else { Duration::ZERO },
        process_id: None,
    });
    told.map_err(|error| failed("tell the service manager", &error))
}

/// From now on, stdout and stderr are this file.
fn log_to(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|found| found.len() > MAX_LOG) {
        std::fs::rename(path, earlier_log(path))?;
    }
    // The handle is never closed: it is the process's own now.
    let log = OpenOptions::new().append(true).create(true).open(path)?.into_raw_handle();
    for stream in [STD_ERROR_HANDLE, STD_OUTPUT_HANDLE] {
        // SAFETY: an open handle of a file, which stays open.
        if unsafe { SetStdHandle(stream, log) } == 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn failed(what: &str, error: &windows_service::Error) -> Error {
    const ACCESS_DENIED: i32 = 5;
    const NOT_STARTED_AS_SERVICE: i32 = 1063;
    let windows_service::Error::Winapi(cause) = error else {
        return Error::new(Code::Local, format!("cannot {what}: {error}"));
    };
    let error = Error::new(Code::Local, format!("cannot {what}: {cause}"));
    match cause.raw_os_error() {
        Some(ACCESS_DENIED) => error.fix("use a console that was started as administrator"),
        Some(NOT_STARTED_AS_SERVICE) => error
            .fix("the service manager starts this: sc start NAME; or use the command without it"),
        _ => error,
    }
}
