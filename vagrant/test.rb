# Tests of the Vagrantfile and of cluster.yaml, in plain Ruby: `ruby test.rb`. The Vagrantfile is loaded with a stand-in
# for Vagrant that writes down what it is told, so that all three providers are looked at, whichever are installed.

require "fileutils"
require "open3"
require "tmpdir"
require "yaml"

module Vagrant
  module Errors
    # As much of it as a Vagrantfile sees.
    class VagrantError < StandardError
      def initialize
        super(error_message)
      end
    end
  end

  def self.configure(_version)
    yield $config
  end
end

# Whatever it is asked for, it writes down and takes.
class Recorder
  attr_reader :calls

  def initialize
    @calls = []
  end

  def method_missing(name, *args, **options, &block)
    child = Recorder.new
    @calls << [name.to_s, args, options, child, block]
    child
  end

  def respond_to_missing?(*)
    true
  end

  # Of a call without arguments, like `config.vm`.
  def all(name)
    @calls.select { |call| call[0] == name }
  end

  def value(name)
    all("#{name}=").map { |call| call[1].first }.last
  end
end

# One `config.vm.define`.
class Machine
  attr_reader :name, :vm

  def initialize(name, block)
    @name = name
    node = Recorder.new
    @vm = Recorder.new
    recorded = @vm
    node.define_singleton_method(:vm) { recorded }
    block.call(node)
  end

  def ip
    @vm.all("network").map { |call| call[2][:ip] }.first
  end

  # [settings, overrides] of all blocks for it, as a Vagrant with that provider would run them.
  def provider(wanted)
    settings = Recorder.new
    override = Recorder.new
    override_vm = Recorder.new
    override.define_singleton_method(:vm) { override_vm }
    @vm.all("provider").each { |_, args, _, _, block| block.call(settings, override) if args.first == wanted }
    [settings, override_vm]
  end

  def provisioners
    @vm.all("provision").map { |_, args, options, _, block| [args.first, options, block] }
  end

  def script_arguments
    shell = Struct.new(:path, :args, :env).new
    provisioners.find { |name, _, _| name == "mezzo" }[2].call(shell)
    shell.args
  end
end

Loaded = Struct.new(:machines, :triggers)

def load_vagrantfile(environment = {})
  environment = { "VAGRANT_DOTFILE_PATH" => "/nonexistent", "MEZZO_PRESET" => nil, "MEZZO_BOX" => nil,
                  "MEZZO_DEB" => nil, "VAGRANT_NO_PARALLEL" => nil }.merge(environment)
  before = ENV.to_h
  ENV.update(environment)
  vm = Recorder.new
  trigger = Recorder.new
  $config = Struct.new(:vm, :trigger).new(vm, trigger)
  Object.send(:remove_const, :MezzoRefusal) if Object.const_defined?(:MezzoRefusal)
  load File.join(__dir__, "Vagrantfile")
  machines = vm.all("define").map { |_, args, _, _, block| Machine.new(args.first, block) }
  Loaded.new(machines, trigger.all("before"))
ensure
  ENV.replace(before)
end

# What it refuses with.
def refusal(environment = {})
  load_vagrantfile(environment)
  nil
rescue Vagrant::Errors::VagrantError => e
  e.message
end

def check(what, wanted, got = true)
  return if wanted === got

  raise "#{what}: wanted #{wanted.inspect}, got #{got.inspect}"
end

TESTS = {}

def test(name, &block)
  TESTS[name] = block
end

CLUSTER = YAML.safe_load(File.read(File.join(__dir__, "cluster.yaml")))

test "every preset either makes its machines or says why not" do
  CLUSTER["presets"].each do |name, preset|
    check "keys of #{name}", [], preset.keys - %w[masters agents store]
    if preset["masters"] == 1
      names = load_vagrantfile("MEZZO_PRESET" => name).machines.map(&:name)
      check name, ["master"] + (1..preset["agents"]).map { |n| "agent-#{n}" }, names
    else
      check name, /\APreset 3\+5 has 3 masters .* etcd, and mezzo does not have that yet/,
            refusal("MEZZO_PRESET" => name)
    end
  end
  check "the three", %w[1+1 1+3 3+5], CLUSTER["presets"].keys
end

test "the default preset is one that works" do
  check "default", nil, refusal
end

test "an unknown preset is refused with the known ones" do
  check "refusal", "There is no preset 2+2 in cluster.yaml; there are 1+1, 1+3, 3+5.", refusal("MEZZO_PRESET" => "2+2")
end

test "names and addresses are fixed and every machine knows all" do
  machines = load_vagrantfile("MEZZO_PRESET" => "1+3").machines
  check "addresses", %w[192.168.56.10 192.168.56.21 192.168.56.22 192.168.56.23], machines.map(&:ip)
  check "host names", machines.map(&:name), machines.map { |one| one.vm.value("hostname") }
  machines.each do |one|
    arguments = one.script_arguments
    hosts = arguments.each_cons(2).select { |flag, _| flag == "--host" }.map(&:last)
    check "hosts of #{one.name}", machines.map { |each| "#{each.ip}=#{each.name}" }, hosts
    pairs = arguments.each_slice(2).to_a
    check "name", ["--name", one.name], pairs.find { |flag, _| flag == "--name" }
    check "master", ["--master", "192.168.56.10"], pairs.find { |flag, _| flag == "--master" }
    roles = pairs.select { |flag, _| flag == "--role" }.map(&:last)
    check "roles of #{one.name}", one.name == "master" ? %w[master scheduler] : %w[agent], roles
  end
end

test "each provider has its box and the sizes of the file" do
  load_vagrantfile.machines.each do |one|
    size = CLUSTER["machines"][one.name == "master" ? "master" : "agent"]
    %w[libvirt virtualbox].each do |provider|
      settings, override = one.provider(provider)
      check "box", CLUSTER["boxes"][provider], override.value("box")
      check "memory", size["memory"], settings.value("memory")
      check "cpus", size["cpus"], settings.value("cpus")
    end
    settings, override = one.provider("vmware_desktop")
    check "box", CLUSTER["boxes"]["vmware_desktop"], override.value("box")
    written = settings.all("vmx").map { |call| call[3].all("[]=").first[1] }.to_h
    check "vmx", { "memsize" => size["memory"].to_s, "numvcpus" => size["cpus"].to_s }, written
  end
end

test "a box in the environment wins" do
  one = load_vagrantfile("MEZZO_BOX" => "own/box").machines.first
  check "boxes", ["own/box"], CLUSTER["boxes"].keys.map { |provider| one.provider(provider)[1].value("box") }.uniq
end

test "without a package nothing is brought up, with one it is copied in" do
  check_package = lambda do |environment|
    loaded = load_vagrantfile(environment)
    check "when", [[:up, :provision, :reload]], loaded.triggers.map { |call| call[1].first }
    trigger = Recorder.new
    loaded.triggers.first[4].call(trigger)
    trigger.all("ruby").first[4].call(nil, nil)
    loaded
  end
  begin
    check_package.call("MEZZO_DEB" => "/nonexistent/mezzo.deb")
    raise "was not refused"
  rescue Vagrant::Errors::VagrantError => e
    check "refusal", "MEZZO_DEB names /nonexistent/mezzo.deb, and there is no such file.", e.message
  end
  Dir.mktmpdir do |dir|
    package = File.join(dir, "mezzo_0.1.0-1_amd64.deb")
    File.write(package, "")
    loaded = check_package.call("MEZZO_DEB" => package)
    loaded.machines.each do |one|
      check "order", %w[package mezzo], one.provisioners.map(&:first)
      check "file", { type: "file", source: package, destination: "/tmp/mezzo.deb" }, one.provisioners.first[1]
    end
  end
end

test "the addresses stand at the end, once" do
  messages = load_vagrantfile("MEZZO_PRESET" => "1+1").machines.map { |one| one.vm.value("post_up_message") }
  check "of the master", nil, messages.first
  ["master 192.168.56.10, agent-1 192.168.56.21", "http://192.168.56.10:8080", "192.168.56.10:5050",
   "vagrant halt -f agent-1"].each { |text| check text, true, messages.last.include?(text) }
end

test "machines of another preset are told" do
  Dir.mktmpdir do |dir|
    FileUtils.mkdir_p(File.join(dir, "machines/agent-3/libvirt"))
    File.write(File.join(dir, "machines/agent-3/libvirt/id"), "x")
    program = "require #{File.expand_path(__FILE__).inspect}; load_vagrantfile(#{{ "MEZZO_PRESET" => "1+1",
                                                                                  "VAGRANT_DOTFILE_PATH" => dir }})"
    _, errors, status = Open3.capture3("ruby", "-e", program)
    check "status", true, status.success?
    check "warning", /made with another one: agent-3\. Set MEZZO_PRESET/, errors
  end
end

# The script's functions, without a machine to change.
def in_script(code)
  text = File.read(File.join(__dir__, "provision.sh")).sub(/^main "\$@"$/, "")
  Open3.capture3("bash", "-c", "#{text}\n#{code}")
end

test "the script refuses what it does not understand" do
  good = "--package p --role agent --name a --ip 192.168.56.21 --master 192.168.56.10"
  {
    good => "",
    "--role agent" => "--package is missing",
    good.sub("agent", "king") => "there is no role king",
    "#{good} --master" => "--master wants a value",
    "#{good} --mister x" => "unknown argument --mister",
    "#{good} --host 192.168.56.10" => "not of the form IP=NAME",
    "#{good} --registry 'a\"b'" => "is no name and no address",
  }.each do |arguments, wanted|
    _, errors, status = in_script("parse #{arguments}")
    check arguments, wanted.empty?, status.success?
    check arguments, /#{Regexp.escape(wanted)}/, errors
  end
end

test "settings are written once, before tables, and win over the package's" do
  Dir.mktmpdir do |dir|
    path = File.join(dir, "agent.toml")
    File.write(path, "# the agent\nlisten = \"127.0.0.1:5051\"\nkeep = 1\n[table]\nlisten = \"inner\"\n")
    write = "set_values #{path} \"listen=$(string 10.0.0.1:5051)\" \"insecure_registries=$(strings a:1 b:2)\""
    _, errors, = in_script(write)
    check "errors", "", errors
    wanted = <<~TOML
      # --- written by provision.sh; the next run writes it anew
      listen = "10.0.0.1:5051"
      insecure_registries = ["a:1", "b:2"]
      # --- end
      # the agent
      #provision.sh# listen = "127.0.0.1:5051"
      keep = 1
      [table]
      listen = "inner"
    TOML
    check "first", wanted, File.read(path)
    in_script(write)
    check "again", wanted, File.read(path)
    in_script(write.sub("10.0.0.1", "10.0.0.2"))
    check "changed", wanted.sub("10.0.0.1", "10.0.0.2"), File.read(path)
  end
end

test "names of the cluster come first and once" do
  Dir.mktmpdir do |dir|
    path = File.join(dir, "hosts")
    File.write(path, "127.0.0.1 localhost\n127.0.1.1 master\n")
    2.times { in_script("hosts_file=#{path} hosts=(192.168.56.10=master 192.168.56.21=agent-1); write_hosts") }
    lines = File.readlines(path, chomp: true).reject { |line| line.start_with?("#") }
    check "lines", ["192.168.56.10 master", "192.168.56.21 agent-1", "127.0.0.1 localhost", "127.0.1.1 master"], lines
  end
end

test "missing dependencies are named" do
  fake = <<~BASH
    dpkg-deb() { printf 'Pre-Depends: init-system-helpers (>= 1.54~)\\nDepends: libc6 (>= 2.34), no-such-a | libc6, no-such-b (>= 1), libc6 (>= 99)\\n'; }
    dpkg-query() { case ${!#} in libc6) echo 'installed 2.36-9' ;; init-*) echo 'installed 1.65' ;; *) return 1 ;; esac; }
    dpkg() { case $4 in 99) return 1 ;; esac; }
    package=p; check_dependencies
  BASH
  _, errors, status = in_script(fake)
  check "status", false, status.success?
  check "message", /lacks what the package needs: no-such-b \(>= 1\), libc6 \(>= 99\)\. Nothing is downloaded/, errors
end

if $PROGRAM_NAME == __FILE__
  failed = 0
  TESTS.each do |name, block|
    block.call
    puts "test #{name} ... ok"
  rescue StandardError => e
    failed += 1
    puts "test #{name} ... FAILED\n  #{e.message}\n  #{e.backtrace.first(3).join("\n  ")}"
  end
  puts "#{TESTS.size - failed} passed, #{failed} failed"
  exit(failed.zero?)
end
