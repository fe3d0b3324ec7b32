"""Kernels for notebooks, forked from a process that has imported what they need: each starts in a tenth of a second and not in four.

What it must not have imported are our own modules, and fastai and its like, which look at their import whether they are in a notebook.
"""
import multiprocessing, os, sys
from functools import cache

from jupyter_client.provisioning import local_provisioner

PRELOAD = ['ipykernel.kernelapp', 'torch', 'pandas', 'matplotlib.pyplot', 'scipy.stats', 'scipy.ndimage', 'sklearn.model_selection', 'warm_kernels']


@cache
def server():
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOAD)
    return context


def run_kernel(started, args, env, folder):
    "In the forked process: be what `python -m ipykernel_launcher` is."
    import matplotlib
    from ipykernel.kernelapp import IPKernelApp
    os.setsid() # a group of its own, which can be ended with all that it starts
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.path = [path for path in sys.path if path != os.path.dirname(__file__)]
    matplotlib.rcParams['backend'] = 'module://matplotlib_inline.backend_inline' # it was imported without a notebook
    started.send(True)
    IPKernelApp.launch_instance(args, parent_handle=os.getppid()) # it ends when the server ends


class Kernel:
    "A forked process with the manners of a Popen."
    stdin = stdout = stderr = None

    def __init__(self, process): self.process, self.pid = process, process.pid
    def poll(self): return self.process.exitcode
    def wait(self):
        self.process.join()
        return self.process.exitcode
    def send_signal(self, signum): os.kill(self.pid, signum)
    def terminate(self): self.process.terminate()
    def kill(self): self.process.kill()


def warm_kernel(cmd, env, cwd, **kwargs):
    started, starting = server().Pipe(duplex=False)
    process = server().Process(target=run_kernel, args=(starting, cmd[cmd.index('-f'):], env, cwd))
    process.start()
    started.recv()
    return Kernel(process)


def use():
    "Launch all later kernels of this process in this way, where it can be done."
    if 'forkserver' in multiprocessing.get_all_start_methods(): local_provisioner.launch_kernel = warm_kernel
