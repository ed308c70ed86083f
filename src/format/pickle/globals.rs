//! Which classes and functions a pickle may name: a list of those known to be inert, a list of those known to run code,
//! and everything else, which is unknown.
//!
//! A listed-as-dangerous name wins over a listed-as-inert one. Protocol 4 resolves dotted names by attribute access, so
//! `torch.serialization` + `os.system` is `os.system`: each tail of a dotted name is judged as if it stood alone.
//!
//! Up to protocol 2, which `torch.save` writes, modules go by their names in Python 2, and loading renames them
//! (`fix_imports`): `commands.Popen` is `subprocess.Popen`. Such a module is judged by both names, whatever the protocol.

use super::Global;

/// What a global is known to be, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Needed to describe a checkpoint, and inert whatever its arguments.
    Allowed(&'static str),
    /// On neither list.
    Unknown,
    /// Runs code, opens files or reaches the network when the file is loaded.
    Dangerous(&'static str),
}

/// Judges one global by its full name.
pub fn judge(global: &Global) -> Judgement {
    if let Some(reason) = danger(global) {
        return Judgement::Dangerous(reason);
    }
    match ALLOWED.iter().find(|entry| entry.covers(global)) {
        Some(entry) => Judgement::Allowed(entry.reason),
        None => Judgement::Unknown,
    }
}

/// Inert globals of one module.
struct Allowed {
    module: &'static str,
    names: Names,
    reason: &'static str,
}

/// Which names of a module.
enum Names {
    /// Exactly these.
    These(&'static [&'static str]),
    /// Classes, by the capital they begin with, of the module and of those below it.
    Classes,
}

impl Allowed {
    fn covers(&self, global: &Global) -> bool {
        match self.names {
            Names::These(names) => global.module == self.module && names.contains(&global.name.as_str()),
            Names::Classes => {
                is_within(&global.module, self.module)
                    && global.name.starts_with(|first: char| first.is_ascii_uppercase())
                    && !global.name.contains('.')
            }
        }
    }
}

/// Whether `path` is `prefix` or lies below it.
fn is_within(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Why this global is dangerous, if it is.
fn danger(global: &Global) -> Option<&'static str> {
    let modules = std::iter::once(global.module.as_str()).chain(renamed(&global.module));
    let mut paths = modules.map(|module| format!("{module}.{}", global.name));
    if let Some(reason) = paths.find_map(|path| dangerous_path(&path)) {
        return Some(reason);
    }
    if !global.name.contains('.') {
        return None;
    }
    if global.name.split('.').any(|part| part.starts_with("__") && part.ends_with("__")) {
        return Some("reaches into the interpreter by a special attribute");
    }
    let tails =
        std::iter::successors(Some(global.name.as_str()), |tail| tail.split_once('.').map(|(_, rest)| rest));
    tails.filter(|tail| tail.contains('.')).find_map(dangerous_path)
}

/// The name in Python 3 of a module of Python 2.
fn renamed(module: &str) -> Option<&'static str> {
    RENAMED.iter().find(|(old, _)| *old == module).map(|(_, new)| *new)
}

fn dangerous_path(path: &str) -> Option<&'static str> {
    DANGEROUS.iter().find(|(prefix, _)| is_within(path, prefix)).map(|(_, reason)| *reason)
}

const REBUILDS: &str = "rebuilds a tensor from a storage of the same file";
const ELEMENT_TYPES: &str = "names an element type";
const NUMPY: &str = "rebuilds a numpy array or number from bytes of the pickle";
const CONTAINER: &str = "a plain container";
const VALUE: &str = "a plain value";
const RANDOM: &str = "a generator of random numbers, filled with its state";
const RECONSTRUCTS: &str = "makes an empty instance of a class, which is judged by its own name";
const ARGUMENTS: &str = "the arguments of a Trainer, which loading fills with plain values";
const LAYER: &str = "a layer or optimizer of PyTorch, which loading fills with plain attributes";

#[rustfmt::skip]
const ALLOWED: &[Allowed] = &[
    Allowed { module: "torch._utils", names: Names::These(&[
        "_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter", "_rebuild_parameter_with_state",
        "_rebuild_qtensor", "_rebuild_sparse_tensor", "_rebuild_sparse_csr_tensor", "_rebuild_nested_tensor",
        "_rebuild_meta_tensor_no_storage", "_rebuild_wrapper_subclass", "_rebuild_device_tensor_from_numpy",
        "_rebuild_device_tensor_from_cpu_tensor", "_rebuild_xla_tensor",
    ]), reason: REBUILDS },
    Allowed { module: "torch._tensor", names: Names::These(&["_rebuild_from_type", "_rebuild_from_type_v2"]), reason: REBUILDS },
    Allowed { module: "torch.tensor", names: Names::These(&["_rebuild_from_type"]), reason: REBUILDS },
    Allowed { module: "torch.serialization", names: Names::These(&["_get_layout"]), reason: VALUE },
    Allowed { module: "torch.nn.parameter", names: Names::These(&[
        "Parameter", "Buffer", "UninitializedParameter", "UninitializedBuffer",
    ]), reason: REBUILDS },
    Allowed { module: "torch", names: Names::These(&[
        "Tensor", "FloatTensor", "DoubleTensor", "HalfTensor", "BFloat16Tensor", "LongTensor", "IntTensor", "ShortTensor",
        "CharTensor", "ByteTensor", "BoolTensor", "FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage",
        "LongStorage", "IntStorage", "ShortStorage", "CharStorage", "ByteStorage", "BoolStorage", "ComplexFloatStorage",
        "ComplexDoubleStorage", "QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage",
        "UntypedStorage", "float64", "double", "float32", "float", "float16", "half", "bfloat16", "float8_e4m3fn",
        "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2", "complex32", "complex64",
        "complex128", "int64", "long", "int32", "int", "int16", "short", "int8", "uint64", "uint32", "uint16", "uint8", "bool",
        "qint8", "quint8", "qint32", "quint4x2", "quint2x4", "bits8", "bits16", "bits1x8", "bits2x4", "bits4x2",
        "per_tensor_affine", "per_channel_affine", "per_channel_affine_float_qparams", "per_tensor_symmetric",
        "per_channel_symmetric", "strided", "sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc", "jagged",
    ]), reason: ELEMENT_TYPES },
    Allowed { module: "torch", names: Names::These(&["Size", "device", "memory_format"]), reason: VALUE },
    Allowed { module: "torch.cuda", names: Names::These(&[
        "FloatStorage", "DoubleStorage", "HalfStorage", "BFloat16Storage", "LongStorage", "IntStorage", "ShortStorage",
        "CharStorage", "ByteStorage", "BoolStorage", "FloatTensor", "HalfTensor", "LongTensor", "ByteTensor",
    ]), reason: ELEMENT_TYPES },
    Allowed { module: "torch.storage", names: Names::These(&["UntypedStorage", "TypedStorage", "_UntypedStorage", "_TypedStorage"]),
        reason: ELEMENT_TYPES },
    Allowed { module: "torch.jit._pickle", names: Names::These(&[
        "build_intlist", "build_doublelist", "build_boollist", "build_tensorlist", "restore_type_tag",
    ]), reason: CONTAINER },
    Allowed { module: "__torch__", names: Names::Classes, reason: "a class that the TorchScript of the same archive defines" },
    Allowed { module: "torch.nn.modules", names: Names::Classes, reason: LAYER },
    Allowed { module: "transformers.training_args", names: Names::These(&["TrainingArguments", "OptimizerNames", "ParallelMode"]),
        reason: ARGUMENTS },
    Allowed { module: "transformers.training_args_seq2seq", names: Names::These(&["Seq2SeqTrainingArguments"]), reason: ARGUMENTS },
    Allowed { module: "transformers.trainer_utils", names: Names::These(&[
        "IntervalStrategy", "EvaluationStrategy", "SchedulerType", "HubStrategy", "SaveStrategy", "FSDPOption",
    ]), reason: ARGUMENTS },
    Allowed { module: "transformers.trainer_pt_utils", names: Names::These(&["AcceleratorConfig"]), reason: ARGUMENTS },
    Allowed { module: "transformers.debug_utils", names: Names::These(&["DebugOption"]), reason: ARGUMENTS },
    Allowed { module: "accelerate.state", names: Names::These(&["PartialState", "AcceleratorState"]), reason: ARGUMENTS },
    Allowed { module: "accelerate.utils.dataclasses", names: Names::These(&["DistributedType"]), reason: ARGUMENTS },
    Allowed { module: "torch.optim", names: Names::Classes, reason: LAYER },
    Allowed { module: "torch.nn.utils", names: Names::Classes, reason: LAYER },
    Allowed { module: "torch.nn.parallel", names: Names::Classes, reason: LAYER },
    Allowed { module: "torch.nn.quantized", names: Names::Classes, reason: LAYER },
    Allowed { module: "torch.ao.nn", names: Names::Classes, reason: LAYER },
    Allowed { module: "torch.ao.quantization", names: Names::Classes, reason: LAYER },
    Allowed { module: "torch.distributions", names: Names::Classes, reason: "a distribution, which loading fills with plain attributes" },
    Allowed { module: "torch.torch_version", names: Names::These(&["TorchVersion"]), reason: VALUE },
    Allowed { module: "torch.distributed.tensor", names: Names::Classes, reason: "describes how a tensor is cut over devices" },
    Allowed { module: "torch.distributed._tensor", names: Names::Classes, reason: "describes how a tensor is cut over devices" },
    Allowed { module: "torch.distributed.device_mesh", names: Names::These(&["DeviceMesh"]),
        reason: "describes how a tensor is cut over devices" },
    Allowed { module: "numpy", names: Names::These(&["dtype", "ndarray"]), reason: NUMPY },
    Allowed { module: "numpy.dtypes", names: Names::Classes, reason: NUMPY },
    Allowed { module: "numpy.core.multiarray", names: Names::These(&["_reconstruct", "scalar"]), reason: NUMPY },
    Allowed { module: "numpy._core.multiarray", names: Names::These(&["_reconstruct", "scalar"]), reason: NUMPY },
    Allowed { module: "numpy.core.numeric", names: Names::These(&["_frombuffer"]), reason: NUMPY },
    Allowed { module: "numpy._core.numeric", names: Names::These(&["_frombuffer"]), reason: NUMPY },
    Allowed { module: "_codecs", names: Names::These(&["encode"]), reason: "turns text into bytes: how protocol 2 writes bytes" },
    Allowed { module: "collections", names: Names::These(&["OrderedDict", "defaultdict", "Counter", "deque"]), reason: CONTAINER },
    Allowed { module: "builtins", names: Names::These(&[
        "dict", "list", "set", "frozenset", "tuple", "int", "float", "bool", "str", "complex", "bytes", "bytearray", "object",
        "slice", "range",
    ]), reason: CONTAINER },
    Allowed { module: "__builtin__", names: Names::These(&[
        "dict", "list", "set", "frozenset", "tuple", "int", "long", "float", "bool", "str", "unicode", "complex", "bytes",
        "bytearray", "object", "slice", "xrange",
    ]), reason: CONTAINER },
    Allowed { module: "numpy.random", names: Names::Classes, reason: RANDOM },
    Allowed { module: "numpy.random._pickle", names: Names::These(&[
        "__randomstate_ctor", "__generator_ctor", "__bit_generator_ctor",
    ]), reason: RANDOM },
    Allowed { module: "random", names: Names::These(&["Random"]), reason: RANDOM },
    Allowed { module: "functools", names: Names::These(&["partial"]),
        reason: "keeps a function, which is judged by its own name, and calls nothing until it is called itself" },
    Allowed { module: "array", names: Names::These(&["array", "_array_reconstructor"]), reason: CONTAINER },
    Allowed { module: "uuid", names: Names::These(&["UUID"]), reason: VALUE },
    Allowed { module: "decimal", names: Names::These(&["Decimal"]), reason: VALUE },
    Allowed { module: "fractions", names: Names::These(&["Fraction"]), reason: VALUE },
    Allowed { module: "copyreg", names: Names::These(&["_reconstructor", "__newobj__", "__newobj_ex__"]), reason: RECONSTRUCTS },
    Allowed { module: "copy_reg", names: Names::These(&["_reconstructor", "__newobj__"]), reason: RECONSTRUCTS },
    Allowed { module: "argparse", names: Names::These(&["Namespace"]), reason: CONTAINER },
    Allowed { module: "types", names: Names::These(&["SimpleNamespace"]), reason: CONTAINER },
    Allowed { module: "pathlib", names: Names::These(&[
        "Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath",
    ]), reason: "a path by name; nothing is opened" },
    Allowed { module: "datetime", names: Names::These(&["date", "time", "datetime", "timedelta", "timezone"]), reason: VALUE },
];

/// Modules that loading renames, as `_compat_pickle` of CPython says. Single names that move between modules are left
/// out: none of them becomes more dangerous by that.
#[rustfmt::skip]
const RENAMED: &[(&str, &str)] = &[
    ("__builtin__", "builtins"), ("copy_reg", "copyreg"), ("Queue", "queue"), ("SocketServer", "socketserver"),
    ("ConfigParser", "configparser"), ("repr", "reprlib"), ("markupbase", "_markupbase"), ("_winreg", "winreg"),
    ("thread", "_thread"), ("dummy_thread", "_dummy_thread"), ("commands", "subprocess"), ("cPickle", "pickle"),
    ("StringIO", "io"), ("cStringIO", "io"), ("UserDict", "collections"), ("UserList", "collections"),
    ("UserString", "collections"), ("_abcoll", "collections.abc"), ("_elementtree", "xml.etree.ElementTree"),
    ("test.test_support", "test.support"),
    ("dbhash", "dbm.bsd"), ("dumbdbm", "dbm.dumb"), ("gdbm", "dbm.gnu"), ("anydbm", "dbm"), ("whichdb", "dbm"),
    ("xmlrpclib", "xmlrpc.client"), ("SimpleXMLRPCServer", "xmlrpc.server"), ("DocXMLRPCServer", "xmlrpc.server"),
    ("httplib", "http.client"), ("Cookie", "http.cookies"), ("cookielib", "http.cookiejar"),
    ("BaseHTTPServer", "http.server"), ("SimpleHTTPServer", "http.server"), ("CGIHTTPServer", "http.server"),
    ("htmlentitydefs", "html.entities"), ("HTMLParser", "html.parser"),
    ("urlparse", "urllib.parse"), ("robotparser", "urllib.robotparser"), ("urllib2", "urllib.request"),
    ("Tkinter", "tkinter"), ("Tix", "tkinter.tix"), ("ttk", "tkinter.ttk"), ("Tkconstants", "tkinter.constants"),
    ("Tkdnd", "tkinter.dnd"), ("Dialog", "tkinter.dialog"), ("FileDialog", "tkinter.filedialog"),
    ("SimpleDialog", "tkinter.simpledialog"), ("ScrolledText", "tkinter.scrolledtext"),
    ("tkFileDialog", "tkinter.filedialog"), ("tkSimpleDialog", "tkinter.simpledialog"),
    ("tkColorChooser", "tkinter.colorchooser"), ("tkCommonDialog", "tkinter.commondialog"), ("tkFont", "tkinter.font"),
    ("tkMessageBox", "tkinter.messagebox"),
];

const PROCESS: &str = "runs a program or a shell";
const FILES: &str = "opens, changes or deletes files";
const EVALUATES: &str = "runs Python source or bytecode";
const ATTRIBUTES: &str = "reaches any attribute of any object";
const IMPORTS: &str = "imports or installs code";
const UNPICKLES: &str = "unpickles bytes that no scanner has seen";
const MEMORY: &str = "reads and writes memory of the process, or loads native code";
const NETWORK: &str = "reaches the network";
const STARTS: &str = "starts a thread or process that runs a function";

/// Full names, or names of whole modules, that are dangerous together with everything below them. Of modules whose names
/// people give to their own, such as `code`, only the names that do harm.
#[rustfmt::skip]
const DANGEROUS: &[(&str, &str)] = &[
    ("posix", PROCESS), ("nt", PROCESS), ("os", PROCESS), ("subprocess", PROCESS), ("_posixsubprocess", PROCESS),
    ("_winapi", PROCESS), ("popen2", PROCESS), ("pty", PROCESS), ("platform.popen", PROCESS),
    ("asyncio.create_subprocess_exec", PROCESS), ("asyncio.create_subprocess_shell", PROCESS), ("asyncio.subprocess", PROCESS),
    ("asyncio.unix_events", PROCESS), ("torch.utils.collect_env", PROCESS),
    ("torch.utils.bottleneck", EVALUATES), ("distutils", PROCESS), ("setuptools", PROCESS), ("numpy.distutils", PROCESS),
    ("numpy.f2py", EVALUATES), ("idlelib", PROCESS), ("lib2to3", EVALUATES), ("pydoc", PROCESS), ("venv", PROCESS),
    ("asyncio.base_events", PROCESS), ("asyncio.base_subprocess", PROCESS), ("asyncio.windows_events", PROCESS),
    ("asyncio.windows_utils", PROCESS), ("asyncio.events", PROCESS), ("pipes", PROCESS), ("tkinter", PROCESS),
    ("_tkinter", PROCESS), ("pexpect", PROCESS), ("winreg", PROCESS),
    ("uuid._get_command_stdout", PROCESS), ("uuid._find_mac", PROCESS), ("uuid._find_mac_near_keyword", PROCESS),
    ("uuid._find_mac_under_heading", PROCESS), ("uuid._ifconfig_getter", PROCESS), ("uuid._ip_getter", PROCESS),
    ("uuid._arp_getter", PROCESS), ("uuid._lanscan_getter", PROCESS), ("uuid._netstat_getter", PROCESS),
    ("_osx_support", PROCESS), ("_aix_support", PROCESS), ("_bootsubprocess", PROCESS), ("mailcap", PROCESS), ("cgitb", FILES),
    ("_pyrepl", EVALUATES), ("_sitebuiltins", FILES), ("sysconfig", EVALUATES), ("modulefinder", EVALUATES), ("zipapp", FILES),
    ("pyclbr", IMPORTS), ("symtable", EVALUATES), ("rlcompleter", EVALUATES), ("turtledemo", EVALUATES),
    ("cgi", FILES), ("crypt", MEMORY), ("curses", PROCESS), ("getpass", FILES), ("readline", FILES),
    ("platform._syscmd_ver", PROCESS), ("platform._syscmd_file", PROCESS), ("platform._Processor", PROCESS),
    ("msilib", FILES), ("mailbox", FILES), ("netrc", FILES), ("tracemalloc", FILES),
    ("pstats", UNPICKLES), ("tabnanny", FILES), ("tokenize.open", FILES), ("fcntl", MEMORY), ("resource", PROCESS),
    ("torch.fx.experimental", EVALUATES), ("torch.utils.benchmark", EVALUATES), ("torch.utils.model_dump", FILES),
    ("torch.utils.data.datapipes.utils.decoder", UNPICKLES), ("torch.utils.jit", EVALUATES),
    ("torch.utils.hipify", FILES), ("torch.utils.show_pickle", UNPICKLES), ("torch.utils.throughput_benchmark", EVALUATES),
    ("torch.onnx", FILES), ("torch.export", UNPICKLES), ("torch._export", UNPICKLES),
    ("torch.jit.frontend", EVALUATES), ("torch.jit.CompilationUnit", EVALUATES),
    ("torch._C.CompilationUnit", EVALUATES),
    ("torch._weights_only_unpickler", UNPICKLES), ("torch.from_file", FILES), ("torch._C.load_state_dict", FILES),
    ("torch.distributed.checkpoint", UNPICKLES),
    ("torch.utils.tensorboard", FILES),
    ("numpy.loadtxt", FILES), ("numpy.genfromtxt", FILES), ("numpy.savez", FILES), ("numpy.savez_compressed", FILES),
    ("numpy.ctypeslib", MEMORY), ("numpy.lib.format", UNPICKLES), ("numpy.lib._npyio_impl", UNPICKLES), ("numpy.lib._datasource", FILES),
    ("numpy.DataSource", FILES), ("numpy.core.records.fromfile", FILES), ("numpy._core.records.fromfile", FILES),
    ("numpy.core.multiarray.fromfile", FILES), ("numpy._core.multiarray.fromfile", FILES),

    ("multiprocessing", STARTS), ("_multiprocessing", STARTS), ("torch.multiprocessing", STARTS), ("_thread", STARTS),
    ("_dummy_thread", STARTS), ("threading", STARTS), ("concurrent.futures", STARTS), ("asyncio.to_thread", STARTS),
    ("torch.distributed.launch", STARTS), ("torch.distributed.run", STARTS), ("torch.distributed.elastic", STARTS),
    ("_interpreters", EVALUATES), ("_xxsubinterpreters", EVALUATES), ("_testcapi", MEMORY),

    ("builtins.eval", EVALUATES), ("builtins.exec", EVALUATES), ("builtins.compile", EVALUATES), ("builtins.breakpoint", EVALUATES),
    ("__builtin__.eval", EVALUATES), ("__builtin__.execfile", EVALUATES), ("__builtin__.exec", EVALUATES),
    ("__builtin__.compile", EVALUATES), ("builtins.help", EVALUATES), ("builtins.input", EVALUATES), ("__builtin__.input", EVALUATES),
    ("runpy", EVALUATES), ("code.interact", EVALUATES), ("code.InteractiveInterpreter", EVALUATES),
    ("code.InteractiveConsole", EVALUATES), ("code.compile_command", EVALUATES), ("codeop", EVALUATES), ("pdb", EVALUATES), ("bdb", EVALUATES),
    ("timeit", EVALUATES), ("trace.Trace", EVALUATES), ("trace.main", EVALUATES), ("profile.run", EVALUATES), ("profile.runctx", EVALUATES),
    ("profile.Profile", EVALUATES), ("profile.main", EVALUATES), ("cProfile", EVALUATES), ("doctest", EVALUATES),
    ("test.support", EVALUATES), ("unittest", IMPORTS), ("py_compile", EVALUATES), ("compileall", EVALUATES), ("types.CodeType", EVALUATES), ("types.FunctionType", EVALUATES),
    ("types.LambdaType", EVALUATES), ("marshal", EVALUATES), ("sympy.parsing", EVALUATES), ("pandas.eval", EVALUATES),
    ("sympy.sympify", EVALUATES), ("sympy.core.sympify", EVALUATES), ("numexpr", EVALUATES), ("pandas.core.computation", EVALUATES),
    ("numpy.testing", EVALUATES), ("torch.fx.graph_module.reduce_graph_module", EVALUATES),
    ("torch.fx.graph_module.reduce_package_graph_module", EVALUATES), ("torch.fx.graph_module.reduce_deploy_graph_module", EVALUATES),
    ("torch._inductor", EVALUATES), ("torch._dynamo", EVALUATES), ("torch.jit.unsupported_tensor_ops", EVALUATES),
    ("torch.utils._config_module.load_config", UNPICKLES), ("torch.utils._config_module.ConfigModule.load_config", UNPICKLES),
    ("torch.distributed.rpc", NETWORK), ("torch.testing._internal", EVALUATES),

    ("builtins.getattr", ATTRIBUTES), ("builtins.setattr", ATTRIBUTES), ("builtins.delattr", ATTRIBUTES),
    ("__builtin__.getattr", ATTRIBUTES), ("__builtin__.setattr", ATTRIBUTES), ("__builtin__.delattr", ATTRIBUTES),
    ("builtins.globals", ATTRIBUTES), ("builtins.locals", ATTRIBUTES), ("builtins.vars", ATTRIBUTES), ("__builtin__.apply", EVALUATES),
    ("__builtin__.globals", ATTRIBUTES), ("__builtin__.locals", ATTRIBUTES), ("__builtin__.vars", ATTRIBUTES),
    ("operator.attrgetter", ATTRIBUTES), ("operator.methodcaller", ATTRIBUTES), ("_operator.attrgetter", ATTRIBUTES),
    ("_operator.methodcaller", ATTRIBUTES), ("inspect", ATTRIBUTES), ("sys", ATTRIBUTES), ("gc", ATTRIBUTES),

    ("builtins.__import__", IMPORTS), ("__builtin__.__import__", IMPORTS), ("__builtin__.reload", IMPORTS),
    ("builtins.__build_class__", EVALUATES), ("importlib", IMPORTS), ("imp", IMPORTS), ("_imp", IMPORTS), ("_frozen_importlib", IMPORTS),
    ("_frozen_importlib_external", IMPORTS), ("pkgutil", IMPORTS), ("zipimport", IMPORTS),
    ("pip", IMPORTS), ("ensurepip", IMPORTS), ("site", IMPORTS), ("torch.hub", IMPORTS), ("torch.package", IMPORTS),
    ("torch.utils.cpp_extension", IMPORTS), ("torch.ops", IMPORTS), ("torch._ops", IMPORTS), ("torch.classes", IMPORTS),
    ("pkg_resources", IMPORTS),

    ("pickle", UNPICKLES), ("_pickle", UNPICKLES), ("cPickle", UNPICKLES), ("dill", UNPICKLES), ("cloudpickle", UNPICKLES),
    ("joblib", UNPICKLES), ("shelve", UNPICKLES), ("torch.load", UNPICKLES), ("torch.serialization.load", UNPICKLES),
    ("torch.storage._load_from_bytes", UNPICKLES), ("torch.jit.load", UNPICKLES), ("torch.jit._serialization", UNPICKLES),
    ("torch.package.package_importer", UNPICKLES), ("numpy.load", UNPICKLES), ("numpy.lib.npyio", UNPICKLES),
    ("pandas.read_pickle", UNPICKLES), ("pandas.io.pickle", UNPICKLES), ("yaml.load", UNPICKLES), ("yaml.load_all", UNPICKLES),
    ("yaml.unsafe_load", UNPICKLES), ("yaml.unsafe_load_all", UNPICKLES), ("yaml.full_load", UNPICKLES), ("yaml.full_load_all", UNPICKLES),
    ("jsonpickle", UNPICKLES),

    ("builtins.open", FILES), ("__builtin__.open", FILES), ("__builtin__.file", FILES), ("io.open", FILES), ("io.FileIO", FILES),
    ("io.open_code", FILES), ("_io.open_code", FILES), ("_pyio", FILES), ("dbm", FILES), ("_dbm", FILES), ("_gdbm", FILES),
    ("gzip", FILES), ("bz2", FILES), ("lzma", FILES),
    ("_io.open", FILES), ("_io.FileIO", FILES), ("shutil", FILES), ("tempfile", FILES), ("zipfile", FILES), ("tarfile", FILES),
    ("codecs.open", FILES), ("fileinput", FILES), ("linecache", FILES), ("glob", FILES), ("numpy.fromfile", FILES),
    ("numpy.memmap", FILES), ("numpy.savetxt", FILES), ("numpy.save", FILES), ("torch.save", FILES), ("logging.FileHandler", FILES),
    ("logging.config", IMPORTS), ("sqlite3", FILES), ("mmap", MEMORY),

    ("ctypes", MEMORY), ("_ctypes", MEMORY), ("cffi", MEMORY), ("_cffi_backend", MEMORY), ("signal", PROCESS), ("atexit", EVALUATES),
    ("faulthandler", MEMORY),

    ("socket", NETWORK), ("_socket", NETWORK), ("ssl", NETWORK), ("http", NETWORK), ("httplib", NETWORK), ("urllib", NETWORK),
    ("urllib2", NETWORK), ("requests", NETWORK), ("aiohttp", NETWORK), ("httpx", NETWORK), ("ftplib", NETWORK),
    ("smtplib", NETWORK), ("poplib", NETWORK), ("imaplib", NETWORK), ("nntplib", NETWORK), ("telnetlib", NETWORK),
    ("xmlrpc", NETWORK), ("socketserver", NETWORK), ("urllib3", NETWORK), ("smtpd", NETWORK), ("wsgiref", NETWORK),
    ("asyncio.open_connection", NETWORK), ("asyncio.start_server", NETWORK), ("asyncio.streams", NETWORK),
    ("logging.handlers", NETWORK), ("paramiko", NETWORK), ("webbrowser", PROCESS), ("antigravity", PROCESS),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(module: &str, name: &str) -> Judgement {
        judge(&Global { module: module.to_owned(), name: name.to_owned() })
    }

    #[track_caller]
    fn assert_dangerous(module: &str, name: &str) {
        assert!(
            matches!(judged(module, name), Judgement::Dangerous(_)),
            "{module} {name}: {:?}",
            judged(module, name)
        );
    }

    #[track_caller]
    fn assert_allowed(module: &str, name: &str) {
        assert!(
            matches!(judged(module, name), Judgement::Allowed(_)),
            "{module} {name}: {:?}",
            judged(module, name)
        );
    }

    #[test]
    fn what_runs_code_is_dangerous_under_each_of_its_names() {
        for (module, name) in [
            ("posix", "system"),
            ("nt", "system"),
            ("os", "popen"),
            ("os.path", "join"),
            ("subprocess", "Popen"),
            ("builtins", "eval"),
            ("__builtin__", "execfile"),
            ("builtins", "__import__"),
            ("builtins", "getattr"),
            ("runpy", "_run_code"),
            ("importlib", "import_module"),
            ("ctypes", "CDLL"),
            ("torch.hub", "load"),
            ("torch", "load"),
            ("torch.storage", "_load_from_bytes"),
            ("torch.fx.graph_module", "reduce_graph_module"),
            ("uuid", "_get_command_stdout"),
            ("_osx_support", "_read_output"),
            ("_aix_support", "_read_cmd_output"),
            ("mailcap", "findmatch"),
            ("cgitb", "text"),
            ("rlcompleter", "Completer"),
            ("torch.fx.experimental.symbolic_shapes", "ShapeEnv"),
            ("torch.utils.benchmark.utils.timer", "Timer"),
        ] {
            assert_dangerous(module, name);
        }
    }

    #[test]
    fn a_dotted_name_is_followed_to_what_it_reaches() {
        assert_dangerous("torch.serialization", "os.system");
        assert_dangerous("torch._utils", "_rebuild_tensor.__globals__");
        assert_dangerous("torch", "hub.load");
        assert_dangerous("torch.nn.modules.module", "torch.hub.load");
        assert_eq!(judged("torch.nn.modules.module", "Module.register_buffer"), Judgement::Unknown);
        assert_eq!(judged("numpy", "prod.b"), Judgement::Unknown);
    }

    #[test]
    fn names_that_only_begin_alike_are_unknown() {
        assert_eq!(judged("oslo_config", "Options"), Judgement::Unknown);
        assert_eq!(judged("builtins", "evaluate"), Judgement::Unknown);
        assert_eq!(judged("torch.nn.modules_of_mine", "Layer"), Judgement::Unknown);
        assert_eq!(judged("torch.nn.modules.module", "register_module_forward_hook"), Judgement::Unknown);
        assert_eq!(judged("", ""), Judgement::Unknown);
    }

    #[test]
    fn what_checkpoints_are_made_of_is_allowed() {
        assert_allowed("torch._utils", "_rebuild_tensor_v2");
        assert_allowed("torch", "FloatStorage");
        assert_allowed("collections", "OrderedDict");
        assert_allowed("torch.nn.modules.linear", "Linear");
        assert_allowed("numpy._core.multiarray", "scalar");
        assert_allowed("transformers.training_args", "TrainingArguments");
        assert_eq!(judged("transformers.training_args", "get_int_from_env"), Judgement::Unknown);
    }

    #[test]
    fn no_name_is_on_both_lists() {
        for entry in ALLOWED {
            let names = match entry.names {
                Names::These(names) => names,
                Names::Classes => &["Class"],
            };
            for name in names {
                assert_allowed(entry.module, name);
            }
        }
    }
}
