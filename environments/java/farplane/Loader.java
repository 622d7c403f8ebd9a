package farplane;

import java.io.IOException;
import java.lang.reflect.Constructor;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.net.MalformedURLException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.jar.JarFile;
import java.util.stream.Stream;
import javax.tools.JavaCompiler;
import javax.tools.ToolProvider;

/** Finds a function in a jar, in a directory of classes and jars, or in source. */
final class Loader {
    private Loader() {}

    static Function load(String where, String name) throws Exception {
        Path path = Path.of(where);
        String wanted = name;
        String method = "handle";
        int colons = name.indexOf("::");
        if (colons >= 0) {
            wanted = name.substring(0, colons);
            method = name.substring(colons + 2);
        }
        List<Path> roots = roots(path);
        URLClassLoader classes = new URLClassLoader(urls(roots), Loader.class.getClassLoader());
        Thread.currentThread().setContextClassLoader(classes);
        if (!wanted.isEmpty()) {
            return function(Class.forName(wanted, true, classes), method);
        }
        List<Class<?>> found = new ArrayList<>();
        // Jars in lib/ are what the code needs; the code itself comes first.
        for (String candidate : names(roots.get(0))) {
            Class<?> type = Class.forName(candidate, false, classes);
            if (method(type, method) != null && !type.isInterface() && !type.isSynthetic()) {
                found.add(type);
            }
        }
        if (found.size() != 1) {
            String what = found.isEmpty() ? "no class with a method `handle`" : "several: " + found;
            throw new IllegalArgumentException(where + " has " + what + "; name it as the entry point");
        }
        return function(Class.forName(found.get(0).getName(), true, classes), method);
    }

    /** Where classes are: the code, then what it needs. */
    private static List<Path> roots(Path path) throws IOException {
        List<Path> roots = new ArrayList<>();
        if (Files.isDirectory(path)) {
            roots.add(path);
            try (Stream<Path> inside = Files.walk(path, 2)) {
                inside.filter(it -> it.toString().endsWith(".jar")).sorted().forEach(roots::add);
            }
            List<Path> sources;
            try (Stream<Path> inside = Files.walk(path)) {
                sources = inside.filter(it -> it.toString().endsWith(".java")).sorted().toList();
            }
            boolean compiled = roots.size() > 1 || !names(path).isEmpty();
            if (!compiled && !sources.isEmpty()) {
                roots.set(0, compile(sources));
            } else if (roots.size() > 1 && names(path).isEmpty()) {
                roots.remove(0);
            }
            return roots;
        }
        byte[] first = new byte[4];
        try (var in = Files.newInputStream(path)) {
            in.readNBytes(first, 0, 4);
        }
        if (first[0] == 'P' && first[1] == 'K') {
            roots.add(path);
        } else if ((first[0] & 0xff) == 0xca && (first[1] & 0xff) == 0xfe) {
            throw new IllegalArgumentException("a lone class has no name here: give a jar");
        } else {
            roots.add(compileFile(path));
        }
        return roots;
    }

    /** A lone file has no ending, and its public class asks for its own name. */
    private static Path compileFile(Path path) throws IOException {
        String text = Files.readString(path);
        var named = java.util.regex.Pattern.compile("public\\s+(?:final\\s+)?(?:class|record)\\s+(\\w+)").matcher(text);
        Path folder = Files.createTempDirectory("source");
        Path file = folder.resolve((named.find() ? named.group(1) : "Main") + ".java");
        Files.writeString(file, text);
        return compile(List.of(file));
    }

    private static Path compile(List<Path> sources) throws IOException {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        if (compiler == null) {
            throw new IllegalArgumentException("this image has no compiler: give the code as source (--src), so that it is built");
        }
        Path output = Files.createTempDirectory("classes");
        List<String> arguments = new ArrayList<>(List.of("-nowarn", "-proc:none", "-d", output.toString()));
        arguments.addAll(List.of("-cp", System.getProperty("java.class.path")));
        sources.forEach(it -> arguments.add(it.toString()));
        var said = new java.io.ByteArrayOutputStream();
        if (compiler.run(null, said, said, arguments.toArray(String[]::new)) != 0) {
            throw new IllegalArgumentException("the code does not compile:\n" + said);
        }
        return output;
    }

    private static URL[] urls(List<Path> roots) throws MalformedURLException {
        URL[] urls = new URL[roots.size()];
        for (int i = 0; i < urls.length; i++) {
            urls[i] = roots.get(i).toUri().toURL();
        }
        return urls;
    }

    /** Names of the classes in a jar or directory. */
    private static List<String> names(Path root) throws IOException {
        List<String> files = new ArrayList<>();
        if (Files.isDirectory(root)) {
            try (Stream<Path> inside = Files.walk(root)) {
                inside.map(it -> root.relativize(it).toString()).forEach(files::add);
            }
        } else {
            try (JarFile jar = new JarFile(root.toFile())) {
                jar.stream().map(it -> it.getName()).forEach(files::add);
            }
        }
        return files.stream()
            .filter(it -> it.endsWith(".class") && !it.contains("$") && !it.startsWith("META-INF") && !it.startsWith("farplane/"))
            .map(it -> it.substring(0, it.length() - 6).replace('/', '.'))
            .filter(it -> !it.endsWith("module-info") && !it.endsWith("package-info"))
            .toList();
    }

    private static Method method(Class<?> type, String name) {
        return Arrays.stream(type.getMethods())
            .filter(it -> it.getName().equals(name) && !it.isBridge() && it.getParameterCount() <= 1)
            .filter(it -> it.getParameterCount() == 0 || takes(it.getParameterTypes()[0]))
            .findFirst()
            .orElse(null);
    }

    private static boolean takes(Class<?> parameter) {
        return parameter == Request.class || parameter == String.class || parameter == byte[].class;
    }

    private static Function function(Class<?> type, String name) throws Exception {
        Method method = method(type, name);
        if (method == null) {
            throw new NoSuchMethodException(type.getName() + " has no public method " + name + "(farplane.Request)");
        }
        method.setAccessible(true);
        Object target = null;
        if (!Modifier.isStatic(method.getModifiers())) {
            Constructor<?> constructor = type.getDeclaredConstructor();
            constructor.setAccessible(true);
            target = constructor.newInstance();
        }
        if (target instanceof Function function && name.equals("handle")) {
            return function;
        }
        Object self = target;
        Class<?> parameter = method.getParameterCount() == 0 ? null : method.getParameterTypes()[0];
        return request -> {
            try {
                if (parameter == null) {
                    return method.invoke(self);
                }
                Object argument = parameter == Request.class ? request
                    : parameter == String.class ? (Object) request.text() : request.body();
                return method.invoke(self, argument);
            } catch (InvocationTargetException e) {
                if (e.getCause() instanceof Exception cause) {
                    throw cause;
                }
                throw e;
            }
        };
    }
}
