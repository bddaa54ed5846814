import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs Kafka's command-line tools one after the other in one process, since starting a JVM takes longer than most of them.
 *
 * <p>Each line of the input is a file with the tool's standard input (may be empty), a class and its arguments, separated by
 * tabs. For each the output has a line with the exit status and the number of bytes that follow: what the tool wrote, standard
 * output and errors in one.
 */
public final class Tools {
    /** Thrown where a tool would end the process. */
    private static final class Ended extends Error {
        private static final long serialVersionUID = 1;
    }

    /** The first status that the tool asked for: its own error handling may ask again. */
    private static Integer status;

    /** What the tool wrote until then. */
    private static byte[] output;

    /** What the tool writes. */
    private static ByteArrayOutputStream written;

    public static void main(String[] unused) throws Exception {
        PrintStream out = System.out;
        Exit.Procedure end = (code, message) -> {
            if (status == null) {
                status = code;
                output = written.toByteArray();
            }
            throw new Ended();
        };
        Exit.setExitProcedure(end);
        Exit.setHaltProcedure(end);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            written = new ByteArrayOutputStream();
            PrintStream capture = new PrintStream(written, true, StandardCharsets.UTF_8);
            System.setOut(capture);
            System.setErr(capture);
            status = null;
            String[] words = line.split("\t");
            byte[] input = words[0].isEmpty() ? new byte[0] : Files.readAllBytes(Path.of(words[0]));
            System.setIn(new ByteArrayInputStream(input));
            run(words[1], Arrays.copyOfRange(words, 2, words.length));
            if (status == null) {
                status = 0;
                output = written.toByteArray();
            }
            out.println(status + " " + output.length);
            out.write(output);
            out.flush();
        }
    }

    private static void run(String name, String[] arguments) throws Exception {
        Method main = Class.forName(name).getMethod("main", String[].class);
        try {
            main.invoke(null, (Object) arguments);
        } catch (InvocationTargetException e) {
            if (!(e.getCause() instanceof Ended)) {
                e.getCause().printStackTrace();
                status = 1;
                output = written.toByteArray();
            }
        }
    }
}
