-- What start-up scripts see: flux-shell-initrc(5).
--
-- `raw` is the shell's side of it. Each of its functions answers true and results, or false and
-- what is wrong.
local raw = ...

-- Calls into the shell for a function of a script's, whose line errors name. Not to be used in tail
-- calls, which would hide that function.
local function call (name, ...)
    local answer = table.pack (raw[name] (...))
    if not answer[1] then error (answer[2], 3) end
    return table.unpack (answer, 2, answer.n)
end

-- The script's line that called the calling function.
local function caller ()
    local info = debug.getinfo (3, "Sl")
    if info then return info.short_src, info.currentline end
end

local function is_glob (path)
    return path:find ("[*?[]") ~= nil
end

-- Sourcing ------------------------------------------------------------------------------------

-- Runs what matches. Returns how many files that was.
local function run (pattern)
    local files = call ("glob", pattern)
    for _, file in ipairs (files) do
        local chunk, text = loadfile (file)
        if not chunk then error (text, 0) end
        chunk ()
    end
    return #files
end

function source (pattern)
    if run (pattern) == 0 and not is_glob (pattern) then
        error ("source " .. pattern .. ": No such file or directory", 2)
    end
end

function source_if_exists (pattern)
    run (pattern)
end

-- Plugins -------------------------------------------------------------------------------------

local plugin_functions = {}

function plugin_functions.load (spec)
    local file, conf = spec, nil
    if type (spec) == "table" then file, conf = spec.file, spec.conf end
    if type (file) ~= "string" then error ("plugin.load: invalid argument", 2) end
    local found = {}
    if file:sub (1, 1) == "/" then
        found = call ("glob", file)
    else
        for directory in (call ("searchpath")):gmatch ("[^:]+") do
            for _, path in ipairs ((call ("glob", directory .. "/" .. file))) do
                table.insert (found, path)
            end
            -- The first of a name is meant; a pattern means all there are.
            if #found > 0 and not is_glob (file) then break end
        end
    end
    if #found == 0 and not is_glob (file) then
        error ("plugin.load: " .. file .. ": File not found", 2)
    end
    for _, path in ipairs (found) do call ("load", path, conf) end
end

function plugin_functions.register (spec)
    local function fail (text) error ("plugin.register: " .. text, 3) end
    if type (spec) ~= "table" then fail ("invalid argument") end
    if type (spec.handlers) ~= "table" then fail ("required handlers table missing") end
    if #spec.handlers == 0 then
        fail ("handlers table exists but has no entries. (not an array?)")
    end
    for at, handler in ipairs (spec.handlers) do
        local which = "handlers[" .. at .. "]: "
        if type (handler) ~= "table" then fail (which .. "not a table") end
        if type (handler.topic) ~= "string" then fail (which .. "required topic missing") end
        if type (handler.fn) ~= "function" then fail (which .. "required fn missing") end
    end
    call ("register", spec.name, spec.handlers)
end

plugin = setmetatable ({}, {
    __index = function (_, key)
        if key == "searchpath" then return (call ("searchpath")) end
        return plugin_functions[key]
    end,
    __newindex = function (_, key, value)
        if key ~= "searchpath" then
            error ("attempt to set read-only field plugin." .. tostring (key), 2)
        end
        call ("set_searchpath", value)
    end,
})

-- The shell -----------------------------------------------------------------------------------

local shell_functions = {}

-- Levels are those of the log: notice, debug, error.
function shell_functions.log (text) call ("log", 5, tostring (text), caller ()) end
function shell_functions.debug (text) call ("log", 6, tostring (text), caller ()) end
function shell_functions.log_error (text) call ("log", 3, tostring (text), caller ()) end
function shell_functions.die (text) call ("die", tostring (text)) end

function shell_functions.getenv (...)
    if select ("#", ...) == 0 then return (call ("environ")) end
    return (call ("getenv", ...))
end

function shell_functions.setenv (name, value, overwrite)
    call ("setenv", name, value, overwrite ~= false and overwrite ~= 0)
end

function shell_functions.unsetenv (name) call ("unsetenv", name) end

function shell_functions.prepend_path (name, path)
    local before = call ("getenv", name)
    if before and before ~= "" then path = path .. ":" .. before end
    call ("setenv", name, path, true)
end

function shell_functions.env_strip (...)
    for name in pairs ((call ("environ"))) do
        for _, pattern in ipairs ({...}) do
            if name:match (pattern) then call ("unsetenv", name) end
        end
    end
end

function shell_functions.get_rankinfo (rank) return (call ("rankinfo", rank)) end

function shell_functions.getopt_with_version (name)
    local value = call ("getopt", name)
    if type (value) ~= "string" then return value end
    local word, version = value:match ("^(.-)@(.*)$")
    if word then return word, version end
    return value
end

-- What comes with the shell, by option and value.
local shipped = { mpi = {} }

function shell_functions.source_rcpath (pattern)
    local count = 0
    for directory in (call ("rcdirs")):gmatch ("[^:]+") do
        count = count + run (directory .. "/" .. pattern)
    end
    return count
end

function shell_functions.source_rcpath_option (option)
    local value, version = shell_functions.getopt_with_version (option)
    if value == nil then return end
    local name = option .. "/" .. tostring (value)
    if version then name = name .. "@" .. version end
    local count = shell_functions.source_rcpath (name .. ".lua")
    local builtin = (shipped[option] or {})[value]
    if count > 0 then return end
    if builtin then return builtin () end
    -- What Open MPI needs is there for all jobs.
    if option == "mpi" and value ~= "none" and value ~= "openmpi" then
        call ("log", 4, "mpi=" .. tostring (value) .. ": there is no such MPI personality")
    end
end

local options = setmetatable ({}, {
    __index = function (_, name) return (call ("getopt", name)) end,
    __newindex = function (_, name, value) call ("setopt", name, value) end,
    __pairs = function () return pairs ((call ("options"))) end,
})

local shell_fields = {
    info = function () return (call ("info")) end,
    rankinfo = function () return (call ("rankinfo", -1)) end,
    rcpath = function () return (call ("rcpath")) end,
    verbose = function () return (call ("verbose")) end,
    options = function () return options end,
}

shell = setmetatable ({}, {
    __index = function (_, key)
        local field = shell_fields[key]
        if field then return (field ()) end
        return shell_functions[key]
    end,
    __newindex = function (self, key, value)
        if key == "verbose" then
            call ("set_verbose", value)
        elseif shell_fields[key] or shell_functions[key] then
            error ("attempt to set read-only field shell." .. tostring (key), 2)
        else
            rawset (self, key, value)
        end
    end,
})

-- The current task ----------------------------------------------------------------------------

local task_functions = {}

function task_functions.getenv (name) return (call ("task_getenv", name)) end
function task_functions.unsetenv (name) call ("task_unsetenv", name) end
function task_functions.setenv (name, value, overwrite)
    call ("task_setenv", name, value, overwrite ~= false and overwrite ~= 0)
end

task = setmetatable ({}, {
    __index = function (_, key)
        local info = call ("task_info")
        if key == "info" then return info end
        return task_functions[key]
    end,
    __newindex = function (_, key)
        error ("attempt to set read-only field task." .. tostring (key), 2)
    end,
})

-- Coprocesses ---------------------------------------------------------------------------------

coprocess = {}

function coprocess.define (spec)
    if type (spec) ~= "table" then error ("coprocess.define: invalid argument", 2) end
    local name = spec.name
    if type (name) ~= "string" then
        error ("coprocess.define: missing required 'name'", 2)
    end
    local asked = options[name]
    if not asked or asked == 0 then return end
    local entry = {}
    for key, value in pairs (spec) do
        if key ~= "name" then entry[key] = value end
    end
    if type (asked) == "table" then
        for key, value in pairs (asked) do entry[key] = value end
    end
    local all = options.coprocess
    if type (all) ~= "table" then all = {} end
    all[name] = entry
    options.coprocess = all
end

-- IBM Spectrum MPI ----------------------------------------------------------------------------

function shipped.mpi.spectrum ()
    shell.env_strip ("^PMIX_", "^OMPI_")
    shell.setenv ("OMPI_MCA_osc", "pt2pt")
    shell.setenv ("OMPI_MCA_pml", "yalla")
    shell.setenv ("OMPI_MCA_btl", "self")
    shell.setenv ("OMPI_MCA_coll_hcoll_enable", "0")
    local directory = "/opt/ibm/spectrum_mpi/lib"
    shell.prepend_path ("LD_LIBRARY_PATH", directory .. "/pami_port")
    shell.prepend_path ("LD_PRELOAD", directory .. "/libpami_cudahook.so")
    local limits = options.rlimit
    if type (limits) ~= "table" then limits = {} end
    limits.stack = 10485760
    options.rlimit = limits
    plugin.register {
        name = "spectrum",
        handlers = {
            {
                topic = "task.init",
                fn = function ()
                    task.setenv ("OMPI_COMM_WORLD_RANK", task.info.rank)
                end,
            },
        },
    }
end
